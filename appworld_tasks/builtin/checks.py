"""Checks shared by the scenarios' evaluations. This file's source is copied into every task's `evaluation.py`."""

import json

ANSWER_TESTS = {
    "the answer matches the ground truth": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}
# What AppWorld itself changes where one person pays another on Venmo.
PAYMENT = ["venmo.Transaction", "venmo.User.venmo_balance", "venmo.Notification"]


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
    """The collateral-damage test: only what is `allowed` changed, models ("venmo.Transaction") or single columns of
    records that were there before ("venmo.User.venmo_balance")."""
    columns = [entry.rsplit(".", 1) for entry in allowed if entry.count(".") == 2]
    with test("no other data changed"):
        test.case(models.changed_model_names() - set(allowed) - {model for model, _ in columns}, "==", set())
        for model, column in columns:
            added, updated, removed = models.changed_records(model)
            test.case(len(added) + len(removed), "==", 0)
            fields = {field for record in updated for field in models.changed_field_names(model, record.id)}
            test.case(fields - {column}, "==", set())
