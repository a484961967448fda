"""Question: how much has one member paid for a Splitwise group? Its expenses span two pages, other groups distract."""

from appworld_tasks.builtin.app_data import splitwise
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("splitwise",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    me = stage.supervisor
    members = stage.people(4)
    person, *others = members
    titles = stage.titles(3)
    # Groups are listed from the newest; the one that is asked about is the oldest.
    groups = [splitwise.add_group(stage, title, members, stage.ago(days=60 - i)) for i, title in enumerate(titles)]
    payers = [person] * stage.rng.randrange(2, 5) + stage.rng.choices(others, k=stage.rng.randrange(20, 24))
    stage.rng.shuffle(payers)
    payers.append(person)  # the oldest, so on the second page
    shares = [stage.rng.randrange(4, 40) for _ in payers]
    paid = [(payer, me, n, stage.ago(hours=i + 2)) for i, (payer, n) in enumerate(zip(payers, shares, strict=True))]
    splitwise.add_expenses(stage, paid, groups[0])
    for group in groups[1:]:
        splitwise.add_expenses(stage, [(person, me, stage.rng.randrange(400, 900), stage.ago(hours=1))], group)

    opening = log_in("splitwise")
    fetch_groups = "gs = apis.splitwise.show_groups(access_token=splitwise_token, page_limit=20)"
    select = 'group_id = [g["group_id"] for g in gs if g["name"] == <group_name>][0]'
    select_any = 'group_id = gs[0]["group_id"]'
    fetch = all_pages("es", "splitwise.show_group_expenses", "group_id=group_id")
    add_up = 'n = sum(e["paid_amount"] for e in es if e["payer"]["name"].startswith(<first_name> + " "))'
    add_up_all = 'n = sum(e["paid_amount"] for e in es)'
    add_up_shares = add_up.replace('e["paid_amount"]', 'e["shares"][0]["debt_amount"]')
    find = lines(fetch_groups, select, "print(group_id)")
    return Draft(
        instruction=f"How many dollars has {person.first_name} paid in total for the expenses of my Splitwise group "
        f"{titles[0]}?",
        given={"first_name": person.first_name, "group_name": titles[0]},
        answer=sum(2 * n for payer, n in zip(payers, shares, strict=True) if payer == person),
        num_api_calls=3 + 1 + PAGES + 1,
        solution=[opening, find, lines(fetch, add_up, "print(n)"), submit("n")],
        wrong={
            "wrong_group": [
                opening,
                lines(fetch_groups, select_any, "print(group_id)"),
                lines(fetch, add_up, "print(n)"),
                submit("n"),
            ],
            "no_filter": [opening, find, lines(fetch, add_up_all, "print(n)"), submit("n")],
            "shares_instead": [opening, find, lines(fetch, add_up_shares, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
