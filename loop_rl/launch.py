"""Train: start every process of a run, or resume it: `python -m loop_rl.launch`, see `loop_rl.running.launch`."""

import sys

from loop_rl.running.launch import main

if __name__ == "__main__":
    sys.exit(main())
