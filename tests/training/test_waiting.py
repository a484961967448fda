"""The trainer waits for a sampler whose clock may be another machine's."""

import json

import pytest
import tiny

from loop_rl import train
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir


@pytest.fixture
def run(tmp_path) -> RunDir:
    config = tiny.make_config(tmp_path / "model")
    return RunDir.create(config.model_copy(update={"runs_dir": str(tmp_path / "runs")}))


class Clock:
    """In place of the trainer's: a hundred seconds pass whenever it sleeps, and then something happens."""

    def __init__(self, *happenings) -> None:
        self.now = 0.0
        self.happenings = list(happenings)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 100
        if self.happenings:
            self.happenings.pop(0)()


def sign(run: RunDir, updated_at: float) -> None:
    run.write_status("sampler", phase="sampling", iteration=0, done=0, total=1)
    (file,) = run.path.rglob("sampler.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"updated_at": updated_at}))


def test_a_sampler_that_gives_signs_is_waited_for_whatever_its_clock_says(run, monkeypatch):
    groups = tiny.make_groups(3)

    def assign():
        RolloutStore(run).assign(0, {group.group_id: group.rollouts for group in groups}, dropped=[])

    signs = [lambda n=n: sign(run, 5000.0 - 700 * n) for n in range(7)]  # far in the past, and going backwards
    monkeypatch.setattr(train, "time", Clock(*signs, assign))
    found = train.wait_for_groups(run, run.config, 0, report=False)
    assert [group.group_id for group in found] == [group.group_id for group in groups]


def test_a_sampler_that_says_nothing_new_is_given_up(run, monkeypatch):
    sign(run, 1e12)  # of a sampler that died long ago, on a machine whose clock was years ahead
    clock = Clock()
    monkeypatch.setattr(train, "time", clock)
    with pytest.raises(RuntimeError, match="no sign of the sampler for 300 s"):
        train.wait_for_groups(run, run.config, 0, report=False)
    assert clock.now == 400
