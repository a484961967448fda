"""Question: what does everything on the Amazon wish list but one product cost together, counting quantities?"""

from appworld_tasks.builtin.app_data import amazon
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("amazon",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    entries = [(product, stage.rng.randrange(2, 5)) for product in stage.products(stage.rng.randrange(4, 9))]
    amazon.add_to_wish_list(stage, entries)
    left_out = stage.rng.choice(entries)

    opening = log_in("amazon")
    fetch = "ps = apis.amazon.show_wish_list(access_token=amazon_token)"
    add_up = 'n = sum(p["price"] * p["quantity"] for p in ps if p["product_name"] != <product_name>)'
    add_up_all = 'n = sum(p["price"] * p["quantity"] for p in ps)'
    add_up_singles = 'n = sum(p["price"] for p in ps if p["product_name"] != <product_name>)'
    return Draft(
        instruction=f"How many dollars does everything on my Amazon wish list except the {left_out[0].name} "
        "cost in total, given the quantities?",
        given={"product_name": left_out[0].name},
        answer=sum(product.price * quantity for product, quantity in entries if product != left_out[0]),
        num_api_calls=3 + 1 + 1,
        solution=[opening, lines(fetch, add_up, "print(n)"), submit("n")],
        wrong={
            "no_exception": [opening, lines(fetch, add_up_all, "print(n)"), submit("n")],
            "ignores_quantity": [opening, lines(fetch, add_up_singles, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
