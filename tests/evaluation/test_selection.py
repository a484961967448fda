"""Which version is a run's result, and what its evaluations say together."""

import json

import pytest
from served import served_config

from loop_rl.evaluation.selection import (
    Evaluation,
    final_evaluations,
    is_finished,
    repeated_lines,
    result_version,
    selecting,
)
from loop_rl.store.run_dir import RunDir


@pytest.fixture
def run(tmp_path) -> RunDir:
    """Trained, 7 iterations; nothing is evaluated yet."""
    evaluation = {"every": 3, "select_repeats": 2, "repeats": 2, "more_splits": ["test_challenge"]}
    config = served_config(
        tmp_path / "model", runs_dir=str(tmp_path), trainer={"num_iterations": 7}, evaluation=evaluation
    )
    run = RunDir.create(config)
    run.policy_folder(7).mkdir(parents=True)
    return run


def evaluated(run: RunDir, evaluation: Evaluation, tgc: float) -> None:
    evaluation.file(run).write_text(json.dumps({"TGC": {"all": {"value": tgc, "low": 0, "high": 1, "num": 3}}}))


def test_the_best_candidate_by_its_mean_is_the_result(run):
    config = run.config
    assert config.candidate_versions == [3, 6, 7]
    for version, scores in {3: (0.2, 0.6), 6: (0.5, 0.3), 7: (0.1, 0.1)}.items():
        assert result_version(run, config) is None
        for evaluation, score in zip(selecting(config, version), scores, strict=True):
            assert evaluation.split == "dev"
            evaluated(run, evaluation, score)
    assert result_version(run, config) == 3  # 0.4 as version 6, but earlier
    evaluated(run, selecting(config, 6)[1], 0.4)
    assert result_version(run, config) == 6


def test_a_run_is_finished_when_its_result_is_evaluated_on_every_split_as_often_as_asked(run):
    config = run.config
    for version in config.candidate_versions:
        for evaluation in selecting(config, version):
            evaluated(run, evaluation, 0.5)
    final = final_evaluations(config, 3)
    assert [(e.split, e.file(run).name) for e in final] == [
        ("test_normal", "v000003-test_normal.json"),
        ("test_normal", "v000003-test_normal-r2.json"),
        ("test_challenge", "v000003-test_challenge.json"),
        ("test_challenge", "v000003-test_challenge-r2.json"),
    ]
    for number, evaluation in enumerate(final):
        assert not is_finished(run, config)
        evaluated(run, evaluation, 0.25 * (number + 1))
    assert is_finished(run, config)
    assert repeated_lines(run, config, 3) == [
        "test_normal, version 3, 2 evaluations: TGC 37.5 ± 17.7",
        "test_challenge, version 3, 2 evaluations: TGC 87.5 ± 17.7",
    ]


def test_without_candidates_the_last_version_is_the_result(run):
    config = run.config.model_copy(update={"evaluation": run.config.evaluation.model_copy(update={"every": 0})})
    assert config.candidate_versions == [] and result_version(run, config) == 7
