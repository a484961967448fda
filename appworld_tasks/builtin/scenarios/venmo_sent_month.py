"""Question across two apps: how much went to everybody of one relationship this month? Two pages, older payments too."""

from appworld_tasks.builtin.app_data import phone, venmo
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("phone", "venmo")
DIFFICULTY = 3
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    me = stage.supervisor
    people = stage.people(8)
    wanted, others = people[:3], people[3:]
    relationship, other = stage.rng.sample(phone.GROUPS, 2)
    phone.add_contacts(stage, [(p, [relationship if p in wanted else other]) for p in people])
    receivers = [*wanted, *stage.rng.choices(wanted, k=2), *stage.rng.choices(others, k=stage.rng.randrange(20, 24))]
    stage.rng.shuffle(receivers)
    receivers.append(wanted[0])  # on the second page
    amounts = [stage.rng.randrange(4, 90) for _ in receivers]
    # Spread over this month, which may be hours old.
    step = int((stage.now - stage.now.replace(day=1, hour=0, minute=0)).total_seconds()) // (len(receivers) + 1)
    this_month = [
        (me, receiver, n, stage.ago(seconds=step * (len(receivers) - i)))
        for i, (receiver, n) in enumerate(zip(receivers, amounts, strict=True))
    ]
    last_month = [(me, p, stage.rng.randrange(4, 90), stage.ago(days=32 + i)) for i, p in enumerate(people)]
    # What they have sent does not count.
    received = [(p, me, stage.rng.randrange(4, 90), stage.ago(minutes=1)) for p in wanted]
    venmo.add_payments(stage, [*last_month, *this_month, *received])

    contacts = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'emails = [c["email"] for c in cs]',
        "print(len(emails))",
    )
    date = lines("from datetime import datetime", 'start = datetime.now().strftime("%Y-%m-01")', "print(start)")
    fetch = all_pages("ts", "venmo.show_transactions", 'direction="sent", min_created_at=start')
    add_up = lines('n = sum(t["amount"] for t in ts if t["receiver"]["email"] in emails)', "print(n)")
    opening = log_in("phone", "venmo")
    all_time = fetch.replace(", min_created_at=start", "")
    everybody = contacts.replace("relationship=<relationship>, ", "")
    add_up_one = add_up.replace("in emails", "in emails[:1]")
    count = add_up.replace('t["amount"]', "1")
    return Draft(
        instruction=f"How many dollars have I sent to my {relationship}s on Venmo this month in total?",
        given={"relationship": f"{relationship}s"},
        answer=sum(n for receiver, n in zip(receivers, amounts, strict=True) if receiver in wanted),
        num_api_calls=4 + 1 + PAGES + 1,
        solution=[opening, contacts, date, lines(fetch, add_up), submit("n")],
        wrong={
            "all_time": [opening, contacts, date, lines(all_time, add_up), submit("n")],
            "no_relationship": [opening, everybody, date, lines(fetch, add_up), submit("n")],
            "one_of_them": [opening, contacts, date, lines(fetch, add_up_one), submit("n")],
            "counts_instead": [opening, contacts, date, lines(fetch, count), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
