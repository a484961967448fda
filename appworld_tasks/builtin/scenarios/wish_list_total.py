"""Question: what do all items on the Amazon wish list cost together, counting quantities?"""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("amazon",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    products = stage.products(stage.rng.randrange(4, 8))
    quantities = [2, *(stage.rng.randrange(1, 4) for _ in products[1:])]
    entries = list(zip(products, quantities, strict=True))
    owner = {"user_id": stage.supervisor.id}
    stage.add("amazon.WishListEntry", [{"product_id": p.id, "quantity": quantity, **owner} for p, quantity in entries])

    opening = log_in("amazon")
    fetch = "items = apis.amazon.show_wish_list(access_token=token)"
    return Draft(
        instruction="How many dollars does everything on my Amazon wish list cost in total, given the quantities?",
        answer=sum(product.price * quantity for product, quantity in entries),
        num_api_calls=LOGIN_CALLS + 1 + 1,
        solution=[
            opening,
            lines(fetch, 'n = sum(i["price"] * i["quantity"] for i in items)', "print(n)"),
            submit("n"),
        ],
        flawed={
            "ignores_quantity": [
                opening,
                lines(fetch, 'n = sum(i["price"] for i in items)', "print(n)"),
                submit("n"),
            ],
            "counts_instead": [opening, lines(fetch, "n = len(items)", "print(n)"), submit("n")],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
