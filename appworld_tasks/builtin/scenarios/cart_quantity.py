"""Action: set the quantity of one product in the Amazon cart, which is not the same as adding that many."""

from appworld_tasks.builtin.app_data import amazon
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("amazon",)
DIFFICULTY = 1
TESTS = {
    "the product has the new quantity": "no_op_fail",
    "no other product in the cart changed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    products = stage.products(stage.rng.randrange(4, 9))
    entries = [(product, stage.rng.randrange(1, 4)) for product in products]
    amazon.add_to_cart(stage, entries)
    product = stage.rng.choice(products[1:])
    quantity = stage.rng.randrange(4, 20)

    opening = log_in("amazon")
    fetch = 'ps = apis.amazon.show_cart(access_token=amazon_token)["cart_items"]'
    select = 'i = [p["product_id"] for p in ps if p["product_name"] == <product_name>][0]'
    select_any = 'i = ps[0]["product_id"]'
    arguments = "product_id=i, quantity=<quantity>, access_token=amazon_token"
    update = lines(f"apis.amazon.update_product_quantity_in_cart({arguments})", COMPLETE)
    add = lines(f"apis.amazon.add_product_to_cart({arguments})", COMPLETE)
    return Draft(
        instruction=f"Change the quantity of the {product.name} in my Amazon cart to {quantity} pieces.",
        given={"product_name": product.name, "quantity": quantity},
        private_data={"product_id": product.id},
        num_api_calls=3 + 1 + 2,
        solution=[opening, lines(fetch, select, "print(i)"), update],
        wrong={
            "wrong_product": [opening, lines(fetch, select_any, "print(i)"), update],
            "adds_instead": [opening, lines(fetch, select, "print(i)"), add],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("amazon.CartEntry")
    with test("the product has the new quantity"):
        quantities = [entry.quantity for entry in added + updated if entry.product_id == private_data.product_id]
        test.case(quantities, "==", [public_data.quantity])
    with test("no other product in the cart changed"):
        changed = {entry.product_id for entry in added + updated + removed}
        test.case(changed - {private_data.product_id}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["amazon.CartEntry"])
