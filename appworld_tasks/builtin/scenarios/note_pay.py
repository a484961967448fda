"""Action across two apps: pay a Venmo friend what a note says is owed."""

from appworld_tasks.builtin.app_data import simple_note, venmo
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("simple_note", "venmo")
DIFFICULTY = 2
TESTS = {
    "one payment went to the right person": "no_op_fail",
    "one payment has the amount of the note": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    people = stage.people(7)
    # Friends are listed in the order they were made; the first one is somebody else.
    person, *rest = people
    venmo.add_friends(stage, [*rest[:3], person, *rest[3:]])
    # No amount occurs twice, so that a wrong line or a wrong note is always a wrong payment.
    amounts = stage.rng.sample(range(5, 95), 12)
    titles = stage.nouns(3)
    listed = [rest[0], person, rest[1], rest[2]]
    contents = [
        "\n".join(f"{other.first_name}: {amounts[4 * index + k]}" for k, other in enumerate(listed))
        for index in range(3)
    ]
    # The note that is asked about is the oldest: a listing begins with the others.
    simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))

    read_note = lines(
        "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]",
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note_token)["content"]',
        "print(text)",
    )
    amount = 'n = [l.split(": ")[1] for l in text.splitlines() if l.startswith(<first_name> + ": ")][0]'
    amount_first = 'n = [l.split(": ")[1] for l in text.splitlines()][0]'
    fetch = "fs = apis.venmo.search_friends(access_token=venmo_token, page_limit=20)"
    select = 'email = [f["email"] for f in fs if f["first_name"] == <first_name>][0]'
    select_any = 'email = fs[0]["email"]'
    pay = lines("apis.venmo.create_transaction(receiver_email=email, amount=n, access_token=venmo_token)", COMPLETE)
    opening = log_in("simple_note", "venmo")
    return Draft(
        instruction=f"Pay {person.first_name} on Venmo what I owe them according to my note {titles[0]}.",
        given={"first_name": person.first_name, "note_title": titles[0]},
        private_data={"receiver_email": person.email, "amount": float(amounts[1])},
        num_api_calls=4 + 2 + 1 + 2,
        solution=[opening, read_note, lines(fetch, select, amount, "print(email, n)"), pay],
        wrong={
            "wrong_person": [opening, read_note, lines(fetch, select_any, amount, "print(email, n)"), pay],
            "wrong_amount": [opening, read_note, lines(fetch, select, amount_first, "print(email, n)"), pay],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Transaction")
    receivers = [models.end.venmo.User.by_id(payment.receiver_id).email for payment in added]
    with test("one payment went to the right person"):
        test.case(receivers, "==", [private_data.receiver_email])
    with test("one payment has the amount of the note"):
        test.case([payment.amount for payment in added], "==", [private_data.amount])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=PAYMENT)
