"""What fits, and how long it takes, before anything runs: `python -m loop_rl.plan`, see `loop_rl.planning.plan`."""

import sys

from loop_rl.planning.plan import main

if __name__ == "__main__":
    sys.exit(main())
