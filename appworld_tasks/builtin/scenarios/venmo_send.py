"""Action: send one friend some money on Venmo, with a description. The friend is not the first one listed."""

from appworld_tasks.builtin.app_data import venmo
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("venmo",)
DIFFICULTY = 1
TESTS = {
    "one payment went to the right person": "no_op_fail",
    "one payment has the amount asked for": "no_op_fail",
    "one payment has the description asked for": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    person, *rest = stage.people(8)
    place = stage.rng.randrange(1, 8)
    venmo.add_friends(stage, [*rest[:place], person, *rest[place:]])
    amount = stage.rng.randrange(5, 200)
    noun = stage.nouns(1)[0]

    opening = log_in("venmo")
    fetch = "fs = apis.venmo.search_friends(access_token=venmo_token, page_limit=20)"
    select = 'email = [f["email"] for f in fs if f["first_name"] == <first_name>][0]'
    select_any = 'email = fs[0]["email"]'
    arguments = "amount=<amount>, description=<description>, access_token=venmo_token"
    pay = f"apis.venmo.create_transaction(receiver_email=email, {arguments})"
    pay_silently = "apis.venmo.create_transaction(receiver_email=email, amount=<amount>, access_token=venmo_token)"
    request = f"apis.venmo.create_payment_request(user_email=email, {arguments})"
    unfriend = "apis.venmo.remove_friend(user_email=email, access_token=venmo_token)"
    find = lines(fetch, select, "print(email)")
    return Draft(
        instruction=f"Send {person.first_name} {amount} dollars on Venmo with the description {noun}.",
        given={"first_name": person.first_name, "amount": amount, "description": noun},
        private_data={"receiver_email": person.email},
        num_api_calls=3 + 1 + 2,
        solution=[opening, find, lines(pay, COMPLETE)],
        wrong={
            "wrong_person": [opening, lines(fetch, select_any, "print(email)"), lines(pay, COMPLETE)],
            "no_description": [opening, find, lines(pay_silently, COMPLETE)],
            "requests_instead": [opening, find, lines(request, COMPLETE)],
            "does_more": [opening, find, lines(pay, unfriend, COMPLETE)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Transaction")
    receivers = [models.end.venmo.User.by_id(payment.receiver_id).email for payment in added]
    with test("one payment went to the right person"):
        test.case(receivers, "==", [private_data.receiver_email])
    with test("one payment has the amount asked for"):
        test.case([payment.amount for payment in added], "==", [float(public_data.amount)])
    with test("one payment has the description asked for"):
        test.case([payment.description for payment in added], "==", [public_data.description])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=PAYMENT)
