"""Action across two apps: put what a note lists into the Amazon cart, but not what is in it already."""

from appworld_tasks.builtin.app_data import amazon, simple_note
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("simple_note", "amazon")
DIFFICULTY = 3
TESTS = {
    "every listed product that was missing is in the cart": "no_op_fail",
    "each has the quantity of the note": "no_op_fail",
    "nothing else in the cart changed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    products = stage.products(11)
    num_listed = stage.rng.randrange(4, 7)
    quantities = stage.rng.sample(range(2, 30), 11)
    entries = list(zip(products, quantities, strict=True))
    listed, others = entries[:num_listed], entries[num_listed:]
    # Of the listed products, one or two are in the cart already, next to another one.
    num_present = stage.rng.randrange(1, 3)
    present = [product for product, _ in listed[:num_present]] + [others[0][0]]
    amazon.add_to_cart(stage, [(product, 1) for product in present])
    wanted = {product.id: quantity for product, quantity in listed[num_present:]}
    stage.rng.shuffle(listed)
    titles = stage.nouns(3)
    contents = ["\n".join(f"{p.name}: {quantity}" for p, quantity in part) for part in (listed, others, listed[:2])]
    # The note that is asked about is the oldest: a listing begins with the others.
    simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))

    fetch_notes = "notes = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)"
    select_note = 'i = [x["note_id"] for x in notes if x["title"] == <note_title>][0]'
    select_any_note = 'i = [x["note_id"] for x in notes if x["title"] != <note_title>][0]'
    read_note = 'text = apis.simple_note.show_note(note_id=i, access_token=simple_note_token)["content"]'
    read = lines(fetch_notes, select_note, read_note, "print(text)")
    read_another = lines(fetch_notes, select_any_note, read_note, "print(text)")
    fetch_cart = 'ps = apis.amazon.show_cart(access_token=amazon_token)["cart_items"]'
    present_names = 'have = [p["product_name"] for p in ps]'
    split = 'wanted = [l.split(": ") for l in text.splitlines()]'
    select = "wanted = [[name, n] for name, n in wanted if name not in have]"
    compare = lines(fetch_cart, present_names, split, select, "print(wanted)")
    search = lines(
        "ids = []",
        "for name, n in wanted:",
        "    ps = apis.amazon.search_products(query=name, page_limit=20)",
        '    ids.append([p["product_id"] for p in ps if p["name"] == name][0])',
        "print(ids)",
    )
    add = lines(
        "for i, (name, n) in zip(ids, wanted):",
        "    apis.amazon.add_product_to_cart(product_id=i, quantity=int(n), access_token=amazon_token)",
        COMPLETE,
    )
    opening = log_in("simple_note", "amazon")
    return Draft(
        instruction=f"Put the products that my Simple Note note {titles[0]} lists into my Amazon cart in the listed "
        "quantities, but leave out those that are in the cart already.",
        given={"note_title": titles[0]},
        private_data={"quantities": [list(pair) for pair in sorted(wanted.items())]},
        num_api_calls=4 + 2 + 1 + 2 * len(wanted) + 1,
        solution=[opening, read, compare, search, add],
        wrong={
            "adds_what_is_there": [opening, read, lines(split, "print(wanted)"), search, add],
            "one_of_each": [opening, read, compare, search, add.replace("quantity=int(n), ", "")],
            "wrong_note": [opening, read_another, compare, search, add],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("amazon.CartEntry")
    cart = {entry.product_id: entry.quantity for entry in added}
    wanted = dict(private_data.quantities)
    with test("every listed product that was missing is in the cart"):
        test.case(wanted.keys() - cart.keys(), "==", set())
    with test("each has the quantity of the note"):
        test.case({number: cart.get(number) for number in wanted}, "==", wanted)
    with test("nothing else in the cart changed"):
        test.case({entry.product_id for entry in added + updated + removed} - wanted.keys(), "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["amazon.CartEntry"])
