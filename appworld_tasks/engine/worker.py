"""One AppWorld world at a time, driven over a channel: open, execute, close."""

import json
import os
import shutil
from typing import Any

from appworld import AppWorld
from appworld.common.path_store import path_store
from channel import Channel

exit_now = os._exit  # AppWorld disables os._exit while agent code runs
get_pid = os.getpid
MAX_CALL_CHARS = 1000
# What nearly every episode does.
WARM_UP_CODE = """\
me = apis.supervisor.show_profile()
for a in apis.supervisor.show_account_passwords():
    app = a["account_name"]
    login = getattr(apis, app).login
    token = login(username=me["phone_number" if app == "phone" else "email"], password=a["password"])["access_token"]
print(me)
"""


def warm_up() -> None:
    """Play one episode, so that every fork starts with all modules loaded and all caches filled."""
    with_outputs_removed(play_warm_up)


def play_warm_up(task_id: str, experiment_name: str) -> None:
    """Open a world, call some of its APIs, close it."""
    world = AppWorld(task_id, experiment_name, load_ground_truth=False)
    world.execute(WARM_UP_CODE)
    world.close()


def with_outputs_removed(action: Any) -> None:
    """Call `action(task_id, experiment_name)` for the first task there is, and delete what it wrote."""
    task_id = min(os.listdir(os.path.join(path_store.data, "tasks")))
    experiment_name = f".warm-up-{get_pid()}"
    try:
        action(task_id, experiment_name)
    finally:
        shutil.rmtree(os.path.join(path_store.experiment_outputs, experiment_name), ignore_errors=True)


def serve(channel: Channel, settings: dict[str, Any]) -> None:
    """Answer requests until the other side closes the channel or agent code leaves this process unusable.

    Every reply is an object; one with "lost" is the last: the world is gone and so is this process.
    """
    worker_pid = get_pid()
    session = Session(**settings)
    while (request := channel.receive()) is not None:
        try:
            reply = session.handle(request)
        except Exception as error:
            reply = {"lost": "crashed", "detail": f"{type(error).__name__}: {error}"[:2000]}
        except BaseException as error:
            # AppWorld lets these pass and stays half-patched: nothing it does from here on can be trusted.
            reply = {"lost": "exited", "detail": f"agent code raised {type(error).__name__}"}
        if get_pid() != worker_pid:
            exit_now(0)  # a copy forked by agent code came back from execute too; it must not answer
        channel.send(reply)
        if "lost" in reply:
            return


def as_text(string: str) -> str:
    """`string` without lone surrogates: legal in Python strings, and in nothing that stores them."""
    return string.encode("utf-8", "replace").decode()


class Session:
    """The commands; holds the open world."""

    def __init__(self, max_output_chars: int, soft_timeout_s: int) -> None:
        self.max_output_chars = max_output_chars
        self.soft_timeout_s = soft_timeout_s
        self.world: AppWorld | None = None

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request.pop("command")
        return {"open": self.open, "execute": self.execute, "close": self.close, "ping": self.ping}[command](**request)

    def ping(self) -> dict[str, Any]:
        return {}

    def open(self, task_id: str, experiment_name: str, max_interactions: int, random_seed: int) -> dict[str, Any]:
        assert self.world is None, "the previous world is still open"  # a second one would silently take its data
        self.world = AppWorld(
            task_id,
            experiment_name,
            max_interactions=max_interactions,
            random_seed=random_seed,
            timeout_seconds=self.soft_timeout_s,
            load_ground_truth=False,
        )
        return {}

    def execute(self, code: str) -> dict[str, Any]:
        """Run code; AppWorld writes the databases' changes and its logs to disk after every run."""
        assert self.world is not None
        # What no source file can hold becomes a syntax error, the agent's to see, instead of an error in AppWorld.
        code = as_text(code).replace("\0", "\N{REPLACEMENT CHARACTER}")
        num_calls_before = len(self.world.requester.requests)
        try:
            output = self.world.execute(code)
        except UnicodeEncodeError:
            # AppWorld cannot write what was printed to its log; by then everything else is done.
            output = self.world.environment_io[-1]["output"]
        shown = as_text(output[: self.max_output_chars])
        if len(output) > self.max_output_chars:
            shown += f"\n[output truncated: {len(output) - self.max_output_chars} characters]"
        if shown != output:
            # AppWorld keeps every output whole and rewrites all of them to its log on each turn.
            self.world.environment_io[-1]["output"] = shown
            self.world.save_logs()
        api_calls = self._described(self.world.requester.requests[num_calls_before:])
        return {"output": shown, "completed": self.world.task_completed(), "api_calls": api_calls}

    def _described(self, requests: list[dict[str, Any]]) -> list[str]:
        """A line for each request, as many as fit into `max_output_chars`; then how many more there were."""
        lines: list[str] = []
        room = self.max_output_chars
        for index, request in enumerate(requests):
            line = f"{request['method'].upper()} {request['url']} {json.dumps(request['data'], default=str)}"
            line = as_text(line[:MAX_CALL_CHARS])
            room -= len(line)
            if room < 0:
                return [*lines, f"[{len(requests) - index} more API calls]"]
            lines.append(line)
        return lines

    def close(self) -> dict[str, Any]:
        assert self.world is not None
        self.world.close()
        self.world = None
        return {}
