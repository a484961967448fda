"""Action: settle up with one person on Splitwise, to whom two expenses are owed."""

from appworld_tasks.builtin.app_data import splitwise
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("splitwise",)
DIFFICULTY = 1
TESTS = {
    "one payment to the right person is recorded": "no_op_fail",
    "one payment of the whole debt is recorded": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    people = stage.people(5)
    # Balances are listed in the order of the first expense; the person who is to be paid never comes first.
    person = stage.rng.choice(people[1:])
    amounts = stage.rng.sample(range(3, 60), 5)
    extra = stage.rng.randrange(60, 90)
    expenses = [(payer, stage.supervisor, n, stage.ago(days=9)) for payer, n in zip(people, amounts, strict=True)]
    splitwise.add_expenses(stage, [*expenses, (person, stage.supervisor, extra, stage.ago(days=4))])

    opening = log_in("splitwise")
    fetch = 'ps = apis.splitwise.show_people_balance(access_token=splitwise_token)["breakdown"]'
    select = 'email = [p["email"] for p in ps if p["name"].startswith(<first_name> + " ")][0]'
    select_any = 'email = ps[0]["email"]'
    settle = "apis.splitwise.settle_up(email=email, access_token=splitwise_token)"
    overpay = (
        'apis.splitwise.record_payment(payer_email=me["email"], receiver_email=email, '
        'amount=sum(p["amount"] for p in ps), access_token=splitwise_token)'
    )
    reverse = (
        'apis.splitwise.record_payment(payer_email=email, receiver_email=me["email"], '
        'amount=[p["amount"] for p in ps if p["email"] == email][0], access_token=splitwise_token)'
    )
    find = lines(fetch, select, "print(email)")
    return Draft(
        instruction=f"Settle up my balance with {person.first_name} on Splitwise.",
        given={"first_name": person.first_name},
        private_data={"receiver_email": person.email, "amount": float(amounts[people.index(person)] + extra)},
        num_api_calls=3 + 1 + 2,
        solution=[opening, find, lines(settle, COMPLETE)],
        wrong={
            "wrong_person": [opening, lines(fetch, select_any, "print(email)"), lines(settle, COMPLETE)],
            "pays_everything": [opening, find, lines(overpay, COMPLETE)],
            "wrong_direction": [opening, find, lines(reverse, COMPLETE)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("splitwise.Payment")
    directions = [(payment.payer_email, payment.receiver_email) for payment in added]
    with test("one payment to the right person is recorded"):
        test.case(directions, "==", [(main_user.email, private_data.receiver_email)])
    with test("one payment of the whole debt is recorded"):
        test.case([payment.amount for payment in added], "==", [private_data.amount])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["splitwise.Payment", "splitwise.Notification"])
