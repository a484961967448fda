"""AppWorld's own evaluation of saved outputs, on a root that has the ground truth."""

from typing import Any

from appworld import AppWorld, evaluate_task
from appworld.apps.model_lib import CachedDBHandler
from channel import Channel
from worker import with_outputs_removed


def warm_up() -> None:
    """Score one untouched world, so that every fork starts with all modules loaded and all caches filled."""

    def open_and_score(task_id: str, experiment_name: str) -> None:
        AppWorld(task_id, experiment_name, load_ground_truth=False).close()
        score(task_id, experiment_name)

    with_outputs_removed(open_and_score)


def serve(channel: Channel, settings: dict[str, Any]) -> None:
    """Answer score requests until the other side closes the channel, or one fails."""
    while (request := channel.receive()) is not None:
        try:
            reply = score(**request)
        except Exception as error:
            # The clock is still frozen and databases are still cached: this process must not score again.
            reply = {"lost": "crashed", "detail": f"{type(error).__name__}: {error}"[:2000]}
        channel.send(reply)
        if "lost" in reply:
            return


def score(task_id: str, experiment_name: str) -> dict[str, Any]:
    """Evaluate the saved outputs; writes no report."""
    # AppWorld caches the databases it loads by task alone: another experiment of this task would get these.
    CachedDBHandler.reset()
    tracker = evaluate_task(task_id, experiment_name, suppress_errors=True, save_report=False)
    CachedDBHandler.reset()
    return {
        "num_tests": tracker.num_tests,
        "success": tracker.success,
        "passes": [test["requirement"] for test in tracker.passes],
        "failures": [test["requirement"] for test in tracker.failures],
    }
