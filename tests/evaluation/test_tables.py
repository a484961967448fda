"""The tables of an evaluation, as a terminal gets them."""

from rich.console import Console

from loop_rl.environments.appworld.behaviour import RATIOS, count_behaviour
from loop_rl.evaluation.tables import before_after_table, behaviour_table, failed_tests_table, failures_table


def printed(table) -> str:
    console = Console(width=150, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def row(table, label: str) -> list[str]:
    """The cells after a label."""
    (line,) = [line for line in printed(table).splitlines() if f" {label} " in line]
    return [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")][1:]


def figures(**behaviour: int) -> dict:
    share = {"all": {"value": 0.25, "low": 0.1, "high": 0.5, "num": 4}}
    return {
        "TGC": share,
        "SGC": share,
        "behaviour": count_behaviour([], "", 0) | {"rollouts": 4, "turns": 10} | behaviour,
    }


def test_behaviour_before_and_after_in_one_table():
    before, after = figures(doc_calls=2, assumptions=6, multi_block_turns=5), figures(doc_calls=8, assumptions=1)
    table = before_after_table(before, after, "held-out tasks", RATIOS)
    assert row(table, "show_api_doc calls per rollout") == ["0.50", "2.00"]
    assert row(table, "words of assumption per rollout") == ["1.50", "0.25"]
    assert row(table, "turns with more than one code block") == ["50.0%", "0.0%"]
    assert row(table, "giving up after a failed API call") == ["–", "–"]  # nothing failed
    assert row(table, "TGC") == ["4", "25.0 [10.0, 50.0]", "25.0 [10.0, 50.0]", "+0.0"]


def test_figures_of_an_older_version_count_no_behaviour():
    old = {key: value for key, value in figures().items() if key != "behaviour"}
    assert row(behaviour_table({"before": old, "after": figures()}, RATIOS), "turns per rollout") == ["–", "2.50"]


def test_causes_are_shares_of_failed_and_of_successful_tasks():
    causes = {"wrong answer": {"failed": 3, "successful": 0}}
    table = failures_table({"num_tasks": 10, "num_failed": 4, "failures": causes})
    assert "4 failed" in printed(table) and "6 successful" in printed(table)
    assert row(table, "wrong answer") == ["3 (75%)", "0 (0%)"]
    assert row(failures_table({"num_tasks": 4, "num_failed": 4, "failures": causes}), "wrong answer") == [
        "3 (75%)",
        "–",
    ]


def test_what_a_test_is_called_cannot_command_the_terminal():
    text = printed(failed_tests_table({"failed_tests": [["assert [red]x[/red]\n\x1b[31mholds", 2]]}))
    assert "assert [red]x[/red] \N{REPLACEMENT CHARACTER}[31mholds" in text and "\x1b" not in text
