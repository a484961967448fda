"""AppWorld's own evaluation of finished episodes, on a root that has the ground truth.

    diff    {"command": "score"}: load what the live world has saved, and evaluate that; AppWorld's own way
    replay  {"command": "open"}, then "replay", then "evaluate": the same API calls in a clean world, see replay.py

Three requests, so that whoever asks knows whether a process that died did so over the agent's calls or over ours.
"""

import os
from collections.abc import Callable
from typing import Any

from appworld import evaluate_task
from appworld.apps.model_lib import CachedDBHandler
from appworld.common.path_store import path_store
from channel import Channel
from outputs import Unreplayable
from replay import Replay
from worker import play_warm_up, with_outputs_removed


def warm_up() -> None:
    """Play and score one episode, so that every fork starts with all modules loaded and all caches filled."""

    def play_and_score(task_id: str, experiment_name: str) -> None:
        play_warm_up(task_id, experiment_name)
        score(task_id, experiment_name)
        replay = Replay(task_id)
        replay.run(os.path.join(path_store.experiment_outputs, experiment_name, "tasks", task_id))
        replay.evaluate()
        replay.close()

    with_outputs_removed(play_and_score)


def serve(channel: Channel, settings: dict[str, Any]) -> None:
    """Answer requests until the other side closes the channel, or one fails."""
    session = Session(**settings)
    commands = {"score": score, "open": session.open, "replay": session.replay, "evaluate": session.evaluate}
    while (request := channel.receive()) is not None:
        try:
            reply = commands[request.pop("command")](**request)
        except Exception as error:
            # The clock is still frozen and databases are still cached: this process must not score again.
            reply = {"lost": "crashed", "detail": f"{type(error).__name__}: {error}"[:2000]}
        channel.send(reply)
        if "lost" in reply:
            return


class Session:
    """One replay at a time."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._replay: Replay | None = None

    def open(self, task_id: str) -> dict[str, Any]:
        assert self._replay is None, "the last replay was not evaluated"
        self._replay = Replay(task_id, self._scratch)
        return {}

    def replay(self, outputs: str) -> dict[str, Any]:
        """Do the calls of an episode's outputs. "tampered" is why they cannot be done, or empty."""

        def run() -> dict[str, Any]:
            self._replay.run(outputs)
            return {"tampered": ""}

        return self._unless_tampered(run)

    def evaluate(self, outputs: str) -> dict[str, Any]:
        """The score of the replayed world; or "tampered", where the episode has saved another state."""

        def compare_and_evaluate() -> dict[str, Any]:
            if differing := self._replay.differing_apps(outputs):
                raise Unreplayable(f"the state of {', '.join(differing)} is not what the API calls give")
            reply = as_reply(self._replay.evaluate()) | {"tampered": "", "digest": self._replay.digest}
            self._close()
            return reply

        return self._unless_tampered(compare_and_evaluate)

    def _unless_tampered(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return work()
        except Unreplayable as error:
            self._close()
            return {"tampered": str(error)}

    def _close(self) -> None:
        self._replay.close()
        self._replay = None


def score(task_id: str, experiment_name: str) -> dict[str, Any]:
    """Evaluate the saved outputs; writes no report."""
    # AppWorld caches the databases it loads by task alone: another experiment of this task would get these.
    CachedDBHandler.reset()
    tracker = evaluate_task(task_id, experiment_name, suppress_errors=True, save_report=False)
    CachedDBHandler.reset()
    return as_reply(tracker)


def as_reply(tracker: Any) -> dict[str, Any]:
    return {
        "num_tests": tracker.num_tests,
        "success": tracker.success,
        "passes": [test["requirement"] for test in tracker.passes],
        "failures": [test["requirement"] for test in tracker.failures],
    }
