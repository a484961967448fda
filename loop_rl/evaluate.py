"""Evaluate a policy version, a model or an endpoint: `python -m loop_rl.evaluate`, see `loop_rl.evaluation.evaluate`."""

import sys

from loop_rl.evaluation.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
