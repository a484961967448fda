"""What has been rolled out so far, on disk: nothing finished is lost, whenever the process ends.

A finished rollout is a file of its own under rollouts/unfinished/. When an iteration takes a group, its rollouts become
one file under rollouts/train/ that names the iteration; then iterations/<i>.json, which the trainer waits for, lists the
groups; then the files of their own go. Opening the store again undoes or completes what was left half done.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loop_rl.config.base import ConfigError
from loop_rl.data.rollout import Outcome, Rollout
from loop_rl.machine.files import write_atomically
from loop_rl.store.rollout_files import read_group, read_rollouts, write_rollouts
from loop_rl.store.run_dir import RunDir


class RolloutStore:
    """The rollouts of a run. One process at a time writes.

    Raises OSError when the disk is full; what was stored before stays whole.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self.unassigned: dict[int, dict[str, Rollout]] = defaultdict(dict)
        """Finished rollouts of groups that belong to no iteration, by group and id."""
        self.closed: set[int] = set()
        """Groups that have been assigned or dropped."""
        self.outcomes: dict[int, Outcome] = {}
        """Of the groups that have been assigned."""
        self.num_assigned = 0
        """Iterations whose groups were fixed when the store was opened."""
        while run.iteration_file(self.num_assigned).exists():
            self.closed.update(assigned_groups(run, self.num_assigned))
            self.num_assigned += 1
        # The trainer of this very run may have made the file already, empty.
        if not self.num_assigned and run.metrics_file.exists() and run.metrics_file.stat().st_size:
            raise ConfigError(f"{run.path}: made by an older loop_rl, which cannot be resumed; choose another name=")
        self._recover()

    def add(self, rollout: Rollout) -> None:
        """Store a finished rollout."""
        write_rollouts(self._piece(rollout), [rollout])
        self.unassigned[rollout.group_id][rollout.rollout_id] = rollout

    def assign(
        self,
        iteration: int,
        groups: Mapping[int, Sequence[Rollout]],
        dropped: Sequence[int],
        again: Sequence[int] = (),
    ) -> None:
        """Fix what an iteration trains on.

        Args:
            groups: finished rollouts by the number of their group.
            dropped: groups that were dropped since the iteration before; for the record.
            again: groups that an earlier iteration, which their rollouts name, has trained on, too.
        """
        for group_id, rollouts in groups.items():
            ours = [replace(rollout, iteration=iteration) for rollout in rollouts]
            write_rollouts(self._run.group_file(group_id), ours)
        listed = {"groups": [*groups, *again], "dropped": list(dropped)}
        write_atomically(self._run.iteration_file(iteration), json.dumps(listed))
        for group_id, rollouts in groups.items():
            self._close(group_id)
            self.outcomes[group_id] = _outcome(rollouts)

    def drop(self, group_id: int) -> None:
        """Put the finished rollouts of a group aside, for good."""
        if rollouts := list(self.unassigned[group_id].values()):
            write_rollouts(_dropped_file(self._run, group_id), rollouts)
        self._close(group_id)

    def forget(self, group_id: int) -> None:
        """Delete the finished rollouts of a group, which are kept elsewhere."""
        for rollout in self.unassigned.pop(group_id, {}).values():
            self._piece(rollout).unlink()

    def _close(self, group_id: int) -> None:
        self.closed.add(group_id)
        self.forget(group_id)

    def _recover(self) -> None:
        for path in sorted(self._run.dropped_rollouts.glob("group-*.parquet")):
            self.closed.add(_group_id(path))
        for path in sorted(self._run.train_rollouts.glob("group-*.parquet")):
            group_id = _group_id(path)
            if group_id in self.closed:
                group = read_group(path)
                self.outcomes[group_id] = _outcome(group.rollouts)
            else:  # written, but the iteration's list was not
                for rollout in read_rollouts(path):
                    self.add(replace(rollout, iteration=-1))
                path.unlink()
        for path in sorted(self._run.unfinished_rollouts.glob("*.parquet")):
            (rollout,) = read_rollouts(path)
            if rollout.group_id in self.closed:
                path.unlink()
            else:
                self.unassigned[rollout.group_id][rollout.rollout_id] = rollout

    def _piece(self, rollout: Rollout) -> Path:
        return self._run.unfinished_rollouts / f"{rollout.rollout_id}.parquet"


def assigned_groups(run: RunDir, iteration: int) -> list[int]:
    """Numbers of the groups that an iteration trains on."""
    return json.loads(run.iteration_file(iteration).read_text())["groups"]


def read_dropped(run: RunDir, iteration: int) -> list[Rollout]:
    """Rollouts of the groups that were dropped between the iteration before and this one; those still in flight when this
    is called are missing."""
    group_ids = json.loads(run.iteration_file(iteration).read_text())["dropped"]
    files = [_dropped_file(run, group_id) for group_id in group_ids]
    return [rollout for file in files if file.exists() for rollout in read_rollouts(file)]


def _dropped_file(run: RunDir, group_id: int) -> Path:
    """There is none for a group that was dropped before any of its rollouts was finished."""
    return run.dropped_rollouts / run.group_file(group_id).name


def _outcome(rollouts: Sequence[Rollout]) -> Outcome:
    return Outcome(rollouts[0].group_id, rollouts[0].task_id, tuple(rollout.reward for rollout in rollouts))


def _group_id(path: Path) -> int:
    return int(path.stem.removeprefix("group-"))
