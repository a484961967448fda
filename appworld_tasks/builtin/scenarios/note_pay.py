"""Action across two apps: pay a Venmo friend what a note says is owed."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("simple_note", "venmo")
DIFFICULTY = 2
TESTS = {
    "one payment went to the right person": "no_op_fail",
    "one payment has the amount of the note": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    title, *other_titles = stage.nouns(3)
    people = stage.people(7)
    # Friends are listed in the order they were made; the first one is somebody else.
    person = stage.rng.choice(people[1:4])
    listed = people[:4]
    stage.rng.shuffle(listed)
    if listed[0] == person:
        listed.reverse()
    # No amount occurs twice, so that a wrong line or a wrong note is always a wrong payment.
    amounts = stage.rng.sample(range(5, 95), 12)
    owed = {other.id: amounts[index] for index, other in enumerate(listed)}
    rows = []
    for index, other_title in enumerate([title, *other_titles]):
        content = "\n".join(f"{other.first_name}: {amounts[4 * index + k]}" for k, other in enumerate(listed))
        # Without a query the newest note comes first: never the one that is asked about.
        when = stage.ago(hours=10 - index)
        rows.append(
            {
                "user_id": stage.supervisor.id,
                "title": other_title,
                "content": content,
                "created_at": when,
                "updated_at": when,
            }
        )
    stage.add("simple_note.Note", rows)
    stage.add("venmo.Friendship", [{"user_id": stage.supervisor.id, "friend_id": friend.id} for friend in people])

    read_note = lines(
        "note = apis.simple_note.search_notes(query=w[12], access_token=token)[0]",
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=token)["content"]',
        "print(text)",
    )
    log_in_again = log_in("venmo").splitlines()[-1]
    fetch = "fs = apis.venmo.search_friends(access_token=token, page_limit=20)"
    select = 'email = [f["email"] for f in fs if f["first_name"] == w[1]][0]'
    select_any = 'email = [f["email"] for f in fs][0]'
    amount = 'n = [l.split(": ")[1] for l in text.splitlines() if l.startswith(w[1] + ": ")][0]'
    amount_first = 'n = [l.split(": ")[1] for l in text.splitlines()][0]'
    pay = lines("apis.venmo.create_transaction(receiver_email=email, amount=n, access_token=token)", COMPLETE)
    request = lines("apis.venmo.create_payment_request(user_email=email, amount=n, access_token=token)", COMPLETE)
    opening = log_in("simple_note")
    return Draft(
        instruction=f"Pay {person.first_name} on Venmo what I owe them according to my note {title}.",
        public_data={"first_name": person.first_name, "note_title": title},
        private_data={"receiver_email": person.email, "amount": float(owed[person.id])},
        num_api_calls=LOGIN_CALLS + 2 + 1 + 1 + 1 + 1,
        solution=[opening, read_note, lines(log_in_again, fetch, select), lines(amount, pay)],
        flawed={
            "wrong_person": [opening, read_note, lines(log_in_again, fetch, select_any), lines(amount, pay)],
            "wrong_amount": [opening, read_note, lines(log_in_again, fetch, select), lines(amount_first, pay)],
            "requests_instead": [opening, read_note, lines(log_in_again, fetch, select), lines(amount, request)],
            "gives_up": [opening, read_note, GIVE_UP],
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
    allowed = ["venmo.Transaction", "venmo.User", "venmo.Notification"]
    check_nothing_else_changed(test, models, allowed=allowed)
