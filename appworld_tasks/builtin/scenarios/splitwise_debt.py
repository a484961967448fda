"""Question: how much is owed to one person on Splitwise? Two expenses make it up, and some was paid the other way."""

from appworld_tasks.builtin.app_data import splitwise
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("splitwise",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    people = stage.people(5)
    # Balances are listed in the order of the first expense; the person who is asked about never comes first.
    person = stage.rng.choice(people[1:])
    amounts = stage.rng.sample(range(10, 60), 5)
    extra = stage.rng.randrange(60, 90)  # makes the person's balance differ from every other one
    back = stage.rng.randrange(3, 9)
    me = stage.supervisor
    expenses = [(payer, me, n, stage.ago(days=9)) for payer, n in zip(people, amounts, strict=True)]
    expenses += [(person, me, extra, stage.ago(days=4)), (me, person, back, stage.ago(days=2))]
    splitwise.add_expenses(stage, expenses)

    opening = log_in("splitwise")
    fetch = 'ps = apis.splitwise.show_people_balance(access_token=splitwise_token)["breakdown"]'
    select = 'n = [p["amount"] for p in ps if p["name"].startswith(<first_name> + " ")][0]'
    select_any = 'n = [p["amount"] for p in ps][0]'
    add_up_all = 'n = sum(p["amount"] for p in ps)'
    return Draft(
        instruction=f"How many dollars do I owe {person.first_name} on Splitwise?",
        given={"first_name": person.first_name},
        answer=amounts[people.index(person)] + extra - back,
        num_api_calls=3 + 1 + 1,
        solution=[opening, lines(fetch, select, "print(n)"), submit("n")],
        wrong={
            "wrong_person": [opening, lines(fetch, select_any, "print(n)"), submit("n")],
            "no_filter": [opening, lines(fetch, add_up_all, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
