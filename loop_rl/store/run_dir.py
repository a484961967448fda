"""The run directory: where everything of a run lies, and the only thing its processes share.

started_in                the folder that relative paths in config.yaml are meant from
config.yaml               resolved; written once, a different one for the same name is refused, but for more iterations
policy/v000012/           PEFT adapter of policy version 12, or the whole model where all weights are trained; version 0 is
                          the untouched base and has no folder
iterations/               one small file an iteration: the groups that it trains on
rollouts/train/           one parquet file per group that an iteration trains on
rollouts/unfinished/      finished rollouts of groups that belong to no iteration yet
rollouts/dropped/         one parquet file per group that became too old to be trained on (sampler.over_stale: drop)
updates/                  one parquet file an iteration: advantage of each rollout, what the trainer computed of its tokens
rollouts/eval/            one parquet file per evaluated version and split, and its figures in a .json beside it; -r2, -r3, ...
                          where it was evaluated again, with other seeds
checkpoints/step-000012/  engine, optimiser and RNG after iteration 11 (the 12th)
metrics.jsonl             one line an iteration; TensorBoard events in tensorboard/
report.html               what came of it, written at the end and by `make report`
timeline/<process>.jsonl  when the process did what
status/<process>.json     heartbeat and progress of each process
logs/<process>.log
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from loop_rl.config.base import ConfigError, flat_settings, located
from loop_rl.config.load import dump_config, load_config
from loop_rl.config.settings import Config
from loop_rl.data.rollout import version_name
from loop_rl.machine.files import write_atomically


def evaluation_name(version: int, split: str, repeat: int = 1) -> str:
    """What an evaluation is called; all but the first of a version on a split have their number in it."""
    return f"{version_name(version)}-{split}" + (f"-r{repeat}" if repeat > 1 else "")


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunDir:
        """The run directory of `config`, made if it is new.

        Raises:
            ConfigError: a run of this name exists with another config; names the settings that differ.
        """
        run = cls(config.run_dir)
        if run.config_file.exists():
            run._refuse_another(config)
            run._say_where()
            return run
        if run.path.exists() and any(run.path.iterdir()):
            raise ConfigError(f"{run.path}: not empty and no run (no config.yaml); choose another name=")
        for folder in (run.policy, run.train_rollouts, run.eval_rollouts, run.status, run.logs):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.config_file, dump_config(config))
        run._say_where()
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run. Raises ConfigError when there is none."""
        run = cls(path)
        if not run.config_file.exists():
            raise ConfigError(f"{path}: not a run directory (no config.yaml); `make train` makes one")
        return run

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def config(self) -> Config:
        """With absolute paths: a run can be read from any folder, and what it publishes names its base model for anybody.

        Raises:
            ConfigError: the folder that its relative paths are meant from is gone, and they lead nowhere from here.
        """
        config = load_config(self.config_file)
        folder = Path(self._started_in.read_text()) if self._started_in.exists() else Path.cwd()
        if not folder.is_dir():  # moved: then its own commands are most likely given in the new place
            folder, gone = Path.cwd(), folder
            if not (folder / config.runs_dir / config.name / "config.yaml").exists():
                raise ConfigError(
                    f"{self.path}: the run was started in {gone}, which is gone, and its relative paths lead nowhere from here; run "
                    f"the command where the repository is now, or write that folder into {self._started_in}"
                )
        return located(config, folder)

    @property
    def _started_in(self) -> Path:
        return self.path / "started_in"

    def _say_where(self) -> None:
        """Relative paths of its settings are meant from here."""
        write_atomically(self._started_in, str(Path.cwd()))

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def train_rollouts(self) -> Path:
        return self.path / "rollouts" / "train"

    @property
    def unfinished_rollouts(self) -> Path:
        return self.path / "rollouts" / "unfinished"

    @property
    def dropped_rollouts(self) -> Path:
        return self.path / "rollouts" / "dropped"

    @property
    def eval_rollouts(self) -> Path:
        return self.path / "rollouts" / "eval"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def timeline(self) -> Path:
        return self.path / "timeline"

    @property
    def status(self) -> Path:
        return self.path / "status"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def policy_folder(self, version: int) -> Path:
        """Folder of a policy version, an adapter or a whole model; version 0, the base, has none."""
        return self.policy / version_name(version)

    def require_version(self, version: int) -> None:
        """Raises ConfigError when the run has no such policy version; version 0, the base, is always there."""
        if version and not self.policy_folder(version).exists():
            newest = ", ".join(str(v) for v in [0, *self.versions()][-5:])
            raise ConfigError(f"{self.policy_folder(version)}: no such policy version; the newest are {newest}")

    def group_file(self, group_id: int) -> Path:
        return self.train_rollouts / f"group-{group_id:06d}.parquet"

    def iteration_file(self, iteration: int) -> Path:
        return self.path / "iterations" / f"{iteration:06d}.json"

    def update_file(self, iteration: int) -> Path:
        return self.path / "updates" / f"iteration-{iteration:06d}.parquet"

    def evaluation_file(self, version: int, split: str, repeat: int = 1) -> Path:
        """Figures of one evaluation; written last, so it exists only when the evaluation is complete."""
        return self.eval_rollouts / f"{evaluation_name(version, split, repeat)}.json"

    def evaluation_pieces(self, version: int, split: str, repeat: int = 1) -> Path:
        """Folder of the finished episodes of an evaluation that is under way; readers' patterns pass over it."""
        return self.eval_rollouts / f".{evaluation_name(version, split, repeat)}"

    def evaluations_of(self, version: int) -> list[Path]:
        """Figures of the finished evaluations of a version, and folders of those under way."""
        name = version_name(version)
        return sorted([*self.eval_rollouts.glob(f"{name}-*.json"), *self.eval_rollouts.glob(f".{name}-*")])

    def checkpoint_folder(self, version: int) -> Path:
        """State after as many iterations."""
        return self.checkpoints / f"step-{version:06d}"

    def checkpoint_folders(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in self.checkpoints.glob("step-*") if re.fullmatch(r"step-\d{6}", path.name))

    def latest_version(self) -> int:
        """Newest published policy version; 0 when training has published none."""
        return max(self.versions(), default=0)

    def versions(self) -> list[int]:
        """All published ones, oldest first. What else lies in the folder is somebody's own."""
        found = (re.fullmatch(r"v(\d{6})", folder.name) for folder in self.policy.glob("v*"))
        return sorted(int(match[1]) for match in found if match)

    def write_status(self, process: str, **fields: Any) -> None:
        """Replace the process's heartbeat; readers never see half of one."""
        fields["updated_at"] = time.time()
        write_atomically(self.status / f"{process}.json", json.dumps(fields))

    def read_status(self, process: str) -> dict[str, Any]:
        """The process's last heartbeat, empty when it has given none."""
        try:
            return json.loads((self.status / f"{process}.json").read_text())
        except FileNotFoundError:
            return {}

    def lock(self, process: str, wait: Callable[[str], None] | None = None) -> IO:
        """Hold the run for one process of this kind, until the returned file is closed or the process ends.

        wait: told who holds it, before we wait for that process to end.

        Raises:
            ConfigError: another process holds it, and we do not wait.
        """
        self.status.mkdir(parents=True, exist_ok=True)
        file = (self.status / f"{process}.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if wait is None:
                file.close()
                raise ConfigError(
                    f"{self.path}: another {process} works on this run ({holder}); stop it or choose another name="
                ) from error
            wait(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        return file

    def is_extended_by(self, config: Config) -> bool:
        """Whether there is a run, and `config` asks for more iterations of it and for nothing else."""
        if not self.config_file.exists():
            return False
        differing = self._differing(config)
        before, after = differing.get("trainer.num_iterations", (0, 0))
        return len(differing) == 1 and before < after

    def extend(self, config: Config) -> None:
        """Take over more iterations; whoever calls it holds the run."""
        assert self.is_extended_by(config)
        write_atomically(self.config_file, dump_config(config))

    def _refuse_another(self, config: Config) -> None:
        differing = [
            f"{key}={theirs} there, {ours} asked for" for key, (theirs, ours) in self._differing(config).items()
        ]
        if differing:
            raise ConfigError(
                f"{self.path}: this run has another config ({'; '.join(differing)}); choose another name="
            )

    def _differing(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """Of the settings that differ, this run's value and the other one."""
        theirs, ours = (flat_settings(c.model_dump()) for c in (load_config(self.config_file), config))
        pairs = {key: (theirs.get(key), ours.get(key)) for key in theirs | ours}
        return {key: (there, here) for key, (there, here) in pairs.items() if there != here}
