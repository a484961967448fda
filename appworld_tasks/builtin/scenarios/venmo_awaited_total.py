"""Question: how much has the supervisor requested from one person on Venmo? Answered requests do not count."""

from appworld_tasks.builtin.app_data import venmo
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "dev"
APPS = ("venmo",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(4)
    receivers = [person] * stage.rng.randrange(1, 3) + stage.rng.choices(others, k=stage.rng.randrange(6, 9))
    stage.rng.shuffle(receivers)
    receivers.append(person)  # the oldest, so past the five requests of a default page
    amounts = [stage.rng.randrange(4, 90) for _ in receivers]
    me = stage.supervisor
    pending = [
        (me, receiver, n, stage.ago(hours=i + 2))
        for i, (receiver, n) in enumerate(zip(receivers, amounts, strict=True))
    ]
    venmo.add_requests(stage, pending)
    # Those that the person has paid or refused and those the other way round do not count.
    for answer in ("approved_at", "denied_at"):
        venmo.add_requests(stage, [(me, person, stage.rng.randrange(4, 90), stage.ago(hours=1))], answer)
    venmo.add_requests(stage, [(person, me, stage.rng.randrange(100, 190), stage.ago(hours=1))])

    opening = log_in("venmo")
    fetch = 'rs = apis.venmo.show_sent_payment_requests(status="pending", access_token=venmo_token, page_limit=20)'
    add_up = 'n = sum(r["amount"] for r in rs if r["receiver"]["name"].startswith(<first_name> + " "))'
    add_up_all = 'n = sum(r["amount"] for r in rs)'
    return Draft(
        instruction=f"How many dollars do my pending Venmo payment requests to {person.first_name} add up to?",
        given={"first_name": person.first_name},
        answer=sum(n for receiver, n in zip(receivers, amounts, strict=True) if receiver == person),
        num_api_calls=3 + 1 + 1,
        solution=[opening, lines(fetch, add_up, "print(n)"), submit("n")],
        wrong={
            "default_page_only": [
                opening,
                lines(fetch.replace(", page_limit=20", ""), add_up, "print(n)"),
                submit("n"),
            ],
            "answered_ones_too": [
                opening,
                lines(fetch.replace('status="pending", ', ""), add_up, "print(n)"),
                submit("n"),
            ],
            "no_filter": [opening, lines(fetch, add_up_all, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
