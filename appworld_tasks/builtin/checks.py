"""Checks shared by the scenarios' evaluations. This file's source is copied into every task's `evaluation.py`."""

import json

ANSWER_TESTS = {
    "the answer matches the ground truth": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def check_answer(test, models, ground_truth_answer):
    """The three tests of a question: right answer, marked complete, nothing touched."""
    with test("the answer matches the ground truth"):
        test.answer(json.loads(models.end.supervisor.Task.first().answer), ground_truth_answer)
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=[])


def check_completed(test, models):
    """Test that the agent reported success."""
    with test("the task was marked complete with status success"):
        test.case(models.end.supervisor.Task.first().status, "==", "success")


def check_nothing_else_changed(test, models, allowed):
    """Test that only the `allowed` models ("app.Model") changed: the collateral-damage test."""
    with test("no other data changed"):
        test.case(models.changed_model_names() - set(allowed), "==", set())
