"""Question: how much money went to one person on Venmo? The payments span two pages."""

from appworld_tasks.builtin.app_data import venmo
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("venmo",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(4)
    receivers = [person] * stage.rng.randrange(2, 5) + stage.rng.choices(others, k=stage.rng.randrange(20, 24))
    stage.rng.shuffle(receivers)
    receivers.append(person)  # on the second page, so that one page is never enough
    amounts = [stage.rng.randrange(4, 90) for _ in receivers]
    me = stage.supervisor
    sent = [
        (me, receiver, n, stage.ago(hours=90 - i))
        for i, (receiver, n) in enumerate(zip(receivers, amounts, strict=True))
    ]
    # The person has also paid back a little, which does not count.
    venmo.add_payments(stage, [*sent, (person, me, stage.rng.randrange(4, 90), stage.ago(hours=1))])

    opening = log_in("venmo")
    fetch = all_pages("ts", "venmo.show_transactions", 'direction="sent"')
    add_up = 'n = sum(t["amount"] for t in ts if t["receiver"]["name"].startswith(<first_name> + " "))'
    add_up_all = 'n = sum(t["amount"] for t in ts)'
    count = 'n = len([t for t in ts if t["receiver"]["name"].startswith(<first_name> + " ")])'
    return Draft(
        instruction=f"How many dollars have I sent to {person.first_name} on Venmo in total?",
        given={"first_name": person.first_name},
        answer=sum(n for receiver, n in zip(receivers, amounts, strict=True) if receiver == person),
        num_api_calls=3 + PAGES + 1,
        solution=[opening, lines(fetch, add_up, "print(n)"), submit("n")],
        wrong={
            "no_filter": [opening, lines(fetch, add_up_all, "print(n)"), submit("n")],
            "counts_instead": [opening, lines(fetch, count, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
