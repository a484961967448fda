"""Question: how many pieces of one product were ordered on Amazon? An order may hold several, the orders two pages."""

from appworld_tasks.builtin.app_data import amazon
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("amazon",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    product, *others = stage.products(6)
    with_it = [True] * stage.rng.randrange(2, 6) + [False] * stage.rng.randrange(20, 24)
    stage.rng.shuffle(with_it)
    with_it.append(True)  # the oldest, so on the second page
    orders = [
        [(p, stage.rng.randrange(2, 7)) for p in [product] * wanted + stage.rng.sample(others, 2)] for wanted in with_it
    ]
    amazon.add_orders(stage, [(entries, stage.ago(days=days)) for days, entries in enumerate(orders, start=1)])

    opening = log_in("amazon")
    search = lines(
        "ps = apis.amazon.search_products(query=<product_name>, page_limit=20)",
        'i = [p["product_id"] for p in ps if p["name"] == <product_name>][0]',
        "print(i)",
    )
    fetch = all_pages("os", "amazon.show_orders", "")
    items = 'for o in os for x in o["order_items"]'
    add_up = f'n = sum(x["ordered_quantity"] {items} if x["product_id"] == i)'
    add_up_all = f'n = sum(x["ordered_quantity"] {items})'
    count = f'n = len([x {items} if x["product_id"] == i])'
    return Draft(
        instruction=f"How many pieces of the {product.name} have I ordered on Amazon in all my orders together?",
        given={"product_name": product.name},
        answer=sum(quantity for entries in orders for p, quantity in entries if p == product),
        num_api_calls=3 + 1 + PAGES + 1,
        solution=[opening, search, lines(fetch, add_up, "print(n)"), submit("n")],
        wrong={
            "no_filter": [opening, search, lines(fetch, add_up_all, "print(n)"), submit("n")],
            "counts_orders": [opening, search, lines(fetch, count, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
