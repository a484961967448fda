"""LOOP for LLM agents in AppWorld.

    loop_rl launch --config configs/tiny.yaml       train; the same command goes on where a run stopped
    loop_rl plan --config FILE --nodes 2            what fits on these nodes and how long it takes
    loop_rl evaluate --run-dir runs/tiny            TGC and SGC of a policy version
    loop_rl compare --bench babyai --methods loop grpo --seeds 5   methods side by side, with intervals
    loop_rl report runs/tiny                        one HTML page about a run, or several side by side
    loop_rl view runs/tiny                          read its rollouts in a browser
    loop_rl export runs/tiny --to out adapter       adapter, merged model, or data for SFT and preferences
    loop_rl replay runs/tiny --rollout g000003-k1   run an episode's code again and compare
    loop_rl debug-loss runs/tiny --rollout ID       the loss of one rollout, token by token
    loop_rl play --task TASK                        be the agent

`loop_rl COMMAND --help` says more about each.
"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "launch": "loop_rl.running.launch",
    "plan": "loop_rl.planning.plan",
    "evaluate": "loop_rl.evaluation.evaluate",
    "compare": "loop_rl.comparison.compare",
    "report": "loop_rl.inspection.report.report",
    "view": "loop_rl.inspection.viewer.view",
    "export": "loop_rl.inspection.export.export",
    "replay": "loop_rl.inspection.replay",
    "debug-loss": "loop_rl.inspection.debug_loss",
    "play": "loop_rl.inspection.play",
}


def main() -> int:
    """Hand over to the command's own main()."""
    command, arguments = (sys.argv[1] if sys.argv[1:] else "--help"), sys.argv[2:]
    if command in ("--help", "-h", "help"):
        print(__doc__.strip())
        return 0
    if command not in COMMANDS:
        print(f"error: no command {command!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"loop_rl {command}", *arguments]
    return importlib.import_module(COMMANDS[command]).main()


if __name__ == "__main__":
    sys.exit(main())
