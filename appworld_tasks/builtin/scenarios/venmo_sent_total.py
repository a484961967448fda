"""Question: how much money went to one person on Venmo? The payments span two pages."""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("venmo",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(4)
    num_wanted = stage.rng.randrange(3, 6)
    receivers = [person] * (num_wanted - 1) + stage.rng.choices(others, k=stage.rng.randrange(20, 24))
    stage.rng.shuffle(receivers)
    receivers.append(person)  # on the second page, so that one page is never enough
    amounts = [stage.rng.randrange(4, 90) for _ in receivers]
    sent = [(stage.supervisor, receiver) for receiver in receivers]
    rows = [
        _payment(stage, *ends, amount, hours) for hours, (ends, amount) in enumerate(zip(sent, amounts, strict=True))
    ]
    # The person has also paid back a little, which does not count.
    rows.append(_payment(stage, person, stage.supervisor, stage.rng.randrange(4, 90), len(rows)))
    stage.add("venmo.Transaction", rows)
    total = sum(amount for receiver, amount in zip(receivers, amounts, strict=True) if receiver == person)

    opening = log_in("venmo")
    fetch = (
        "ts = [t for p in range(2) for t in "
        'apis.venmo.show_transactions(direction="sent", access_token=token, page_index=p, page_limit=20)]'
    )
    fetch_one_page = 'ts = apis.venmo.show_transactions(direction="sent", access_token=token, page_limit=20)'
    add_up = 'n = sum(t["amount"] for t in ts if t["receiver"]["name"].startswith(w[7] + " "))'
    count = 'n = len([t for t in ts if t["receiver"]["name"].startswith(w[7] + " ")])'
    return Draft(
        instruction=f"How many dollars have I sent to {person.first_name} on Venmo in total?",
        answer=total,
        public_data={"receiver_first_name": person.first_name},
        num_api_calls=LOGIN_CALLS + 2 + 1,
        solution=[opening, lines(fetch, add_up, "print(n)"), submit("n")],
        flawed={
            "first_page_only": [opening, lines(fetch_one_page, add_up, "print(n)"), submit("n")],
            "no_filter": [opening, lines(fetch, 'n = sum(t["amount"] for t in ts)', "print(n)"), submit("n")],
            "counts_instead": [opening, lines(fetch, count, "print(n)"), submit("n")],
            "gives_up": [opening, GIVE_UP],
        },
    )


def _payment(stage: Stage, sender, receiver, amount: int, hours: int) -> dict:
    when = stage.ago(hours=100 - hours)
    ends = {"sender_id": sender.id, "receiver_id": receiver.id}
    return {**ends, "amount": float(amount), "description": "", "created_at": when, "updated_at": when}


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
