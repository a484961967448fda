"""Action across three apps: pay everybody of one relationship what Splitwise says is owed; some of them owe instead."""

from appworld_tasks.builtin.app_data import phone, splitwise
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "dev"
APPS = ("phone", "splitwise", "venmo")
DIFFICULTY = 3
TESTS = {
    "one payment went to each of them and to nobody else": "no_op_fail",
    "each payment has the amount that is owed": "no_op_fail",
    "each payment has the description asked for": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    me = stage.supervisor
    people = stage.people(9)
    # Contacts are listed by email address; the last one that is asked about, past a default page, is owed something.
    related = sorted(people[:6], key=lambda person: person.email)
    owing = stage.rng.sample(related[:5], 2)
    owed = [person for person in related if person not in owing]
    relationship, other = stage.rng.sample(phone.GROUPS, 2)
    phone.add_contacts(stage, [(p, [relationship if p in related else other]) for p in people])
    amounts = stage.rng.sample(range(20, 90), 9)
    back = stage.rng.randrange(3, 15)
    expenses = [
        (me, p, n, stage.ago(days=20)) if p in owing else (p, me, n, stage.ago(days=20))
        for p, n in zip(people, amounts, strict=True)
    ]
    # One of them has paid part of the debt back.
    splitwise.add_expenses(stage, [*expenses, (me, owed[0], back, stage.ago(days=3))])
    noun = stage.nouns(1)[0]
    payments = [[p.email, float(amounts[people.index(p)] - back * (p == owed[0]))] for p in owed]

    contacts = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'emails = [c["email"] for c in cs]',
        "print(len(emails))",
    )
    balances = lines(
        'ps = apis.splitwise.show_people_balance(access_token=splitwise_token)["breakdown"]',
        'ps = [p for p in ps if p["email"] in emails and p["direction"] == "you_owe_them"]',
        'print([p["amount"] for p in ps])',
    )
    pay = lines(
        "for p in ps:",
        '    email, n = p["email"], p["amount"]',
        "    apis.venmo.create_transaction(receiver_email=email, amount=n, description=<description>, "
        "access_token=venmo_token)",
        COMPLETE,
    )
    opening = log_in("phone", "splitwise", "venmo")
    default_page = contacts.replace(", page_limit=20", "")
    both_directions = balances.replace(' and p["direction"] == "you_owe_them"', "")
    everybody = balances.replace('p["email"] in emails and ', "")
    return Draft(
        instruction=f"Pay each of my {relationship}s on Venmo what I owe them on Splitwise, with the description "
        f"{noun}.",
        given={"relationship": f"{relationship}s", "description": noun},
        private_data={"payments": payments},
        num_api_calls=5 + 1 + 1 + len(owed) + 1,
        solution=[opening, contacts, balances, pay],
        wrong={
            "default_page_only": [opening, default_page, balances, pay],
            "both_directions": [opening, contacts, both_directions, pay],
            "no_relationship": [opening, contacts, everybody, pay],
            "same_amount": [opening, contacts, balances, pay.replace('p["amount"]', 'ps[0]["amount"]')],
            "no_description": [opening, contacts, balances, pay.replace("description=<description>, ", "")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Transaction")
    payments = sorted([models.end.venmo.User.by_id(payment.receiver_id).email, payment.amount] for payment in added)
    with test("one payment went to each of them and to nobody else"):
        test.case([email for email, _ in payments], "==", [email for email, _ in private_data.payments])
    with test("each payment has the amount that is owed"):
        test.case(payments, "==", private_data.payments)
    with test("each payment has the description asked for"):
        test.case(
            [payment.description for payment in added], "==", [public_data.description] * len(private_data.payments)
        )
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=PAYMENT)
