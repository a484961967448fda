"""Question: how much is owed to one person on Splitwise, over several expenses?"""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("splitwise",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    people = stage.people(3)
    # Balances are listed in the order of the first expense; the one that is asked about never comes first.
    person = stage.rng.choice(people[1:])
    amounts = stage.rng.sample(range(3, 60), 3)
    extra = stage.rng.randrange(60, 90)  # makes the person's sum differ from every other balance
    shares = [(payer, amount) for payer, amount in zip(people, amounts, strict=True)]
    shares.append((person, extra))
    expenses = stage.add(
        "splitwise.Expense",
        [
            {
                "user_id": payer.id,
                "payer_id": payer.id,
                "debtor_ids": [stage.supervisor.id],
                "description": stage.rng.choice(stage.words.nouns),
                "amount": float(2 * amount),
            }
            for payer, amount in shares
        ],
    )
    stage.add(
        "splitwise.ExpenseShare",
        [
            {"expense_id": expense.id, "debtor_id": stage.supervisor.id, "share_amount": float(amount)}
            for expense, (_, amount) in zip(expenses, shares, strict=True)
        ],
    )

    opening = log_in("splitwise")
    fetch = 'ps = apis.splitwise.show_people_balance(access_token=token)["breakdown"]'
    select = 'n = [p["amount"] for p in ps if p["name"].startswith(w[6] + " ")][0]'
    return Draft(
        instruction=f"How many dollars do I owe {person.first_name} on Splitwise?",
        answer=sum(amount for payer, amount in shares if payer == person),
        public_data={"first_name": person.first_name},
        num_api_calls=LOGIN_CALLS + 1 + 1,
        solution=[opening, lines(fetch, select, "print(n)"), submit("n")],
        flawed={
            "no_filter": [opening, lines(fetch, 'n = [p["amount"] for p in ps][0]', "print(n)"), submit("n")],
            "sums_all": [opening, lines(fetch, 'n = sum(p["amount"] for p in ps)', "print(n)"), submit("n")],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
