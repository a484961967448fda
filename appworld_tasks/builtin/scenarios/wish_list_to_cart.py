"""Action: put the cheap products of the Amazon wish list into the cart, as many of each as the wish list says."""

from appworld_tasks.builtin.app_data import amazon
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("amazon",)
DIFFICULTY = 2
TESTS = {
    "every wish-list product under the limit is in the cart": "no_op_fail",
    "each has the quantity of the wish list": "no_op_fail",
    "nothing else is in the cart": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    entries = [(product, stage.rng.randrange(2, 7)) for product in stage.products(stage.rng.randrange(6, 11))]
    amazon.add_to_wish_list(stage, entries)
    # The limit is one of the prices: a product that costs just as much is not wanted, nor is the dearest.
    prices = sorted({product.price for product, _ in entries})
    limit = stage.rng.choice(prices[1:])
    wanted = {product.id: quantity for product, quantity in entries if product.price < limit}

    opening = log_in("amazon")
    fetch = "ps = apis.amazon.show_wish_list(access_token=amazon_token)"
    select = 'ps = [p for p in ps if p["price"] < <limit>]'
    show = 'print([p["product_id"] for p in ps])'
    product, quantity, token = 'product_id=p["product_id"]', 'quantity=p["quantity"]', "access_token=amazon_token"
    add = f"apis.amazon.add_product_to_cart({product}, {quantity}, {token})"
    add_single = f"apis.amazon.add_product_to_cart({product}, {token})"
    return Draft(
        instruction=f"Add every product on my Amazon wish list that costs less than {limit} dollars to my cart, "
        "in the quantities of the wish list.",
        given={"limit": limit},
        private_data={"quantities": [list(pair) for pair in sorted(wanted.items())]},
        num_api_calls=3 + 1 + len(wanted) + 1,
        solution=[opening, lines(fetch, select, show), lines("for p in ps:", f"    {add}", COMPLETE)],
        wrong={
            "no_filter": [opening, lines(fetch, show), lines("for p in ps:", f"    {add}", COMPLETE)],
            "one_of_each": [opening, lines(fetch, select, show), lines("for p in ps:", f"    {add_single}", COMPLETE)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, _ = models.changed_records("amazon.CartEntry")
    cart = {entry.product_id: entry.quantity for entry in added + updated}
    wanted = dict(private_data.quantities)
    with test("every wish-list product under the limit is in the cart"):
        test.case(wanted.keys() - cart.keys(), "==", set())
    with test("each has the quantity of the wish list"):
        test.case({number: cart.get(number) for number in wanted}, "==", wanted)
    with test("nothing else is in the cart"):
        test.case(cart.keys() - wanted.keys(), "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["amazon.CartEntry"])
