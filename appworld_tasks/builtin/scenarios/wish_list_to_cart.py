"""Action: put the cheap products of the Amazon wish list into the cart."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("amazon",)
DIFFICULTY = 2
TESTS = {
    "every wish-list product under the limit is in the cart": "no_op_fail",
    "nothing else is in the cart": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    products = sorted(stage.products(6), key=lambda product: product.price)
    # The limit separates the cheaper ones, two or three where prices differ, from at least one dearer product.
    limit = next(p.price for p in products[2:] if p.price > products[1].price)
    wanted = [product.id for product in products if product.price < limit]
    owner = {"user_id": stage.supervisor.id}
    stage.add("amazon.WishListEntry", [{"product_id": product.id, **owner} for product in products])

    opening = log_in("amazon")
    fetch = "items = apis.amazon.show_wish_list(access_token=token)"
    select = 'ids = [i["product_id"] for i in items if i["price"] < int(w[12])]'
    select_all = 'ids = [i["product_id"] for i in items]'
    add = lines("for i in ids:", "    apis.amazon.add_product_to_cart(product_id=i, access_token=token)", COMPLETE)
    add_first = lines("apis.amazon.add_product_to_cart(product_id=ids[0], access_token=token)", COMPLETE)
    return Draft(
        instruction=f"Add every product on my Amazon wish list that costs less than {limit} dollars to my cart.",
        public_data={"limit": limit},
        private_data={"product_ids": wanted},
        num_api_calls=LOGIN_CALLS + 1 + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), add],
        flawed={
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), add],
            "only_the_first": [opening, lines(fetch, select, "print(ids)"), add_first],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("amazon.CartEntry")
    wanted = set(private_data.product_ids)
    with test("every wish-list product under the limit is in the cart"):
        test.case(wanted - {entry.product_id for entry in added}, "==", set())
    with test("nothing else is in the cart"):
        test.case({entry.product_id for entry in added} - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["amazon.CartEntry"])
