"""Action across three apps: request from everybody of one relationship what a note says. More of them than a page holds."""

from appworld_tasks.builtin.app_data import phone, simple_note
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("phone", "simple_note", "venmo")
DIFFICULTY = 3
TESTS = {
    "one request went to each of them and to nobody else": "no_op_fail",
    "each request has the amount of the note": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    people = stage.people(10)
    num_wanted = stage.rng.randrange(6, 8)
    wanted = people[:num_wanted]
    relationship, other = stage.rng.sample(phone.GROUPS, 2)
    phone.add_contacts(stage, [(p, [relationship if p in wanted else other]) for p in people])
    titles = stage.nouns(3)
    # Every note lists everybody, and no amount occurs twice.
    amounts = stage.rng.sample(range(5, 95), 30)
    listed = stage.rng.sample(people, 10)
    owed = [dict(zip((p.email for p in listed), amounts[10 * i :], strict=False)) for i in range(3)]
    contents = ["\n".join(f"{p.first_name}: {note[p.email]}" for p in listed) for note in owed]
    # The note that is asked about is the oldest: a listing begins with the others.
    simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))

    fetch = "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)"
    count = "print(len(cs))"
    read_note = lines(
        "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]",
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note_token)["content"]',
        "print(text)",
    )
    request = lines(
        'owed = dict(l.split(": ") for l in text.splitlines())',
        "for c in cs:",
        '    n = owed[c["first_name"]]',
        '    apis.venmo.create_payment_request(user_email=c["email"], amount=n, access_token=venmo_token)',
        COMPLETE,
    )
    request_same = request.replace('owed[c["first_name"]]', 'owed[cs[0]["first_name"]]')
    pay = request.replace("create_payment_request(user_email", "create_transaction(receiver_email")
    opening = log_in("phone", "simple_note", "venmo")
    default_page = fetch.replace(", page_limit=20", "")
    everybody = fetch.replace("relationship=<relationship>, ", "")
    return Draft(
        instruction=f"Request from each of my {relationship}s on Venmo what they owe me according to my note "
        f"{titles[0]}.",
        given={"relationship": f"{relationship}s", "note_title": titles[0]},
        private_data={"requests": sorted([p.email, float(owed[0][p.email])] for p in wanted)},
        num_api_calls=5 + 1 + 2 + num_wanted + 1,
        solution=[opening, lines(fetch, count), read_note, request],
        wrong={
            "default_page_only": [opening, lines(default_page, count), read_note, request],
            "no_filter": [opening, lines(everybody, count), read_note, request],
            "same_amount": [opening, lines(fetch, count), read_note, request_same],
            "pays_instead": [opening, lines(fetch, count), read_note, pay],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.PaymentRequest")
    requests = sorted([models.end.venmo.User.by_id(request.receiver_id).email, request.amount] for request in added)
    with test("one request went to each of them and to nobody else"):
        test.case([email for email, _ in requests], "==", [email for email, _ in private_data.requests])
    with test("each request has the amount of the note"):
        test.case(requests, "==", private_data.requests)
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["venmo.PaymentRequest", "venmo.Notification"])
