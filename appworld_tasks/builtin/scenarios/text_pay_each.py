"""Action across two apps: pay everybody of one relationship the amount in their last text about a thing."""

from appworld_tasks.builtin.app_data import phone
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("phone", "venmo")
DIFFICULTY = 3
TESTS = {
    "everybody meant was paid the amount of their last text": "no_op_fail",
    "nothing else was paid": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    people, me = stage.people(7), stage.supervisor
    wanted = people[: stage.rng.randrange(2, 5)]
    relationship, other = stage.rng.sample(phone.GROUPS, 2)
    phone.add_contacts(
        stage, [(p, [relationship if p in wanted else other]) for p in sorted(people, key=lambda p: p.email)]
    )
    thing, other_thing, *nouns = stage.nouns(24)
    amounts = iter(stage.rng.sample(range(5, 95), 4 * len(people)))
    payments, messages = [], []
    for person in people:
        amount, last = next(amounts), stage.rng.randrange(60, 120)
        payments.append([person.email, float(amount)])
        # In turn: the text that counts, an earlier amount, a later one for something else, and one sent by me.
        for sender, n, what, hours in (
            (person, amount, thing, last),
            (person, next(amounts), thing, last + 40),
            (person, next(amounts), other_thing, last - 9),
            (me, next(amounts), thing, last - 5),
        ):
            text = f"You owe me {n} dollars for the {what}."
            messages.append((sender, me if sender == person else person, text, stage.ago(hours=hours)))
    chat = [(stage.rng.choice(people), me, f"Have you seen my {noun}?", noun) for noun in nouns]
    messages += [(*message[:3], stage.ago(hours=1 + 2 * index)) for index, message in enumerate(chat)]
    phone.add_messages(stage, messages)

    find = "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)"
    find_all = "cs = apis.phone.search_contacts(access_token=phone_token, page_limit=20)"
    show = 'print([c["first_name"] for c in cs])'
    fetch = all_pages("ms", "phone.search_text_messages", "")
    about = 'ms = [m for m in ms if m["message"].endswith(" " + <thing> + ".")]'
    owes = 'ms = [m for m in ms if m["message"].startswith("You owe")]'
    read = lines(
        "owed = {}",
        "for c in cs:",
        '    texts = [m["message"] for m in ms if m["sender"]["phone_number"] == c["phone_number"]]',
        '    owed[c["email"]] = texts[0].split()[3]',
        "print(list(owed.values()))",
    )
    read_first = read.replace("texts[0]", "texts[-1]")
    pay = lines(
        "for email, n in owed.items():",
        "    apis.venmo.create_transaction(receiver_email=email, amount=n, access_token=venmo_token)",
        COMPLETE,
    )
    opening = log_in("phone", "venmo")
    return Draft(
        instruction=f"Pay every {relationship} of mine on Venmo the amount from their last text message to me "
        f"about the {thing}.",
        given={"relationship": relationship, "thing": thing},
        private_data={"payments": payments[: len(wanted)]},
        num_api_calls=4 + 1 + PAGES + len(wanted) + 1,
        solution=[opening, lines(find, show), lines(fetch, about, "print(len(ms))"), read, pay],
        wrong={
            "everybody": [opening, lines(find_all, show), lines(fetch, about, "print(len(ms))"), read, pay],
            "first_text": [opening, lines(find, show), lines(fetch, about, "print(len(ms))"), read_first, pay],
            "any_thing": [opening, lines(find, show), lines(fetch, owes, "print(len(ms))"), read, pay],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Transaction")
    paid = [(models.end.venmo.User.by_id(payment.receiver_id).email, payment.amount) for payment in added]
    wanted = [tuple(payment) for payment in private_data.payments]
    with test("everybody meant was paid the amount of their last text"):
        test.case(set(wanted) - set(paid), "==", set())
    for payment in wanted:
        if payment in paid:
            paid.remove(payment)
    with test("nothing else was paid"):
        test.case(paid, "==", [])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=PAYMENT)
