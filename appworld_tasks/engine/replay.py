"""What an agent did, done again in a clean world: only its API calls count, whatever else its code has touched.

The log of calls was written by the process that ran agent code, so it may be forged, like everything that process has
saved. It is used as data only: each call goes through the world's own API, with the authentication the agent sent, and
so can do nothing that the agent could not have done honestly. AppWorld's server also has routes that are for no agent: the
admin app moves money, others load and save databases anywhere, set the clock and the seed. The clean world has none of them.
"""

import json
import shutil
import tempfile
from typing import Any

from appworld import AppWorld, evaluate_task
from appworld.apps.model_lib import CachedDBHandler
from appworld.common.utils import import_apis_module
from outputs import Unreplayable, digest, read_calls, read_folder, read_saved_state

METHODS = ("get", "post", "put", "patch", "delete")
MAX_CALLS = 20_000


class Replay:
    """A clean world of a task, open from its making until `close`; what it saves meanwhile goes below `scratch`."""

    digest: str
    """Of what the episode has left, as it was read here: set by `differing_apps`."""

    def __init__(self, task_id: str, scratch: str | None = None) -> None:
        # AppWorld caches the databases it loads by task alone: an earlier episode of this task would show through.
        CachedDBHandler.reset()
        self.task_id = task_id
        self.folder = tempfile.mkdtemp(prefix="replay-", dir=scratch)  # an absolute path, as the experiment's name
        self.world = AppWorld(task_id, self.folder, load_ground_truth=False)
        # By route, because one URL can be spelled in many ways.
        routes = self.world.requester.client.app.router.routes
        open_to_agents = {f"/{app}" for app in self.world.task.allowed_apps} - {"/admin"}
        routes[:] = [route for route in routes if route.path in open_to_agents]

    def run(self, outputs: str) -> None:
        """Do the calls that were logged in an episode's outputs. Raises Unreplayable."""
        requester = self.world.requester
        self._log = read_calls(outputs)
        calls = parse_calls(self._log)
        supervisor = self.world.task.supervisor
        others = {account_of(call) for call in calls} - {None, supervisor.email, supervisor.phone_number}
        if others:  # but for accounts that the agent has signed up itself
            others &= self.all_accounts()
        for call in calls:
            if account_of(call) in others:
                continue
            requester.reset_request_count()
            try:
                # The client is named because without it some methods go out to the network.
                getattr(requester, call["method"])(
                    call["url"], data=call["data"], client=requester.client, raise_on_failure=False
                )
            except Exception:
                continue  # the agent's code saw the same error and went on
        # As after every execution: which tables have changed, the evaluation reads from what is saved there.
        self.world._save_state(self.world.output_db_home_path_on_disk)

    def all_accounts(self) -> set[str]:
        """Email addresses and phone numbers of all users of all apps."""
        models = (getattr(self.world.models, app) for app in self.world.task.allowed_apps)
        users = [user for app in models if hasattr(app, "User") for user in app.User.all()]
        return {getattr(user, name) for user in users for name in ("email", "phone_number") if hasattr(user, name)}

    def differing_apps(self, outputs: str) -> list[str]:
        """Apps whose changes, as the live world has saved them, are not those of the replay. Raises Unreplayable."""
        ours = read_folder(self.world.output_db_home_path_on_disk)
        theirs = read_saved_state(outputs)
        self.digest = digest(self.task_id, self._log, theirs)
        if not theirs:
            return []  # no code ran, so nothing was saved
        # model_hashes.json only counts the changes that the other files hold.
        names = (ours.keys() | theirs.keys()) - {"model_hashes.json"}
        return sorted(name.partition(".")[0] for name in names if ours.get(name) != theirs.get(name))

    def evaluate(self) -> Any:
        """AppWorld's own evaluation of the world as it is now."""
        return evaluate_task(self.task_id, self.folder, suppress_errors=True, save_report=False)

    def close(self) -> None:
        self.world.close()
        CachedDBHandler.reset()
        shutil.rmtree(self.folder, ignore_errors=True)


def parse_calls(log: bytes) -> list[dict[str, Any]]:
    """The calls of a log. Raises Unreplayable."""
    lines = log.splitlines()
    if len(lines) > MAX_CALLS:
        raise Unreplayable(f"{len(lines)} API calls, more than {MAX_CALLS}")
    calls = []
    for line in lines:
        try:
            call = json.loads(line)
            well_formed = call["method"] in METHODS and isinstance(call["url"], str) and isinstance(call["data"], dict)
        except (ValueError, KeyError, TypeError, RecursionError):
            well_formed = False
        if not well_formed or not call["url"].startswith("/"):
            raise Unreplayable("the log of API calls is damaged")
        calls.append(call)
    return calls


def account_of(call: dict[str, Any]) -> str | None:
    """Who the access token of a call says it is from. The key that signs tokens is no secret: agent code can make them."""
    try:
        payload = import_apis_module("spotify").logging_manager._get_payload(call["data"]["access_token"])
        return payload["sub"].partition("+")[2]
    except Exception:
        return None  # none, or one that no app accepts
