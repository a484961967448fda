"""Wish lists, carts and orders."""

from datetime import datetime

from appworld_tasks.builtin.population import Product
from appworld_tasks.builtin.scenario import Stage


def add_to_wish_list(stage: Stage, entries: list[tuple[Product, int]]) -> None:
    """Put products (product, quantity) on the supervisor's wish list; it is listed in this order."""
    _add_entries(stage, "amazon.WishListEntry", entries)


def add_to_cart(stage: Stage, entries: list[tuple[Product, int]]) -> None:
    """Put products (product, quantity) into the supervisor's cart; it is listed in this order."""
    _add_entries(stage, "amazon.CartEntry", entries)


def _add_entries(stage: Stage, model: str, entries: list[tuple[Product, int]]) -> None:
    rows = [
        {"user_id": stage.supervisor.id, "product_id": product.id, "quantity": quantity}
        for product, quantity in entries
    ]
    stage.add(model, rows)


def add_orders(stage: Stage, orders: list[tuple[list[tuple[Product, int]], datetime]]) -> None:
    """Add orders ([(product, quantity), ...], when) of the supervisor; listings begin with the newest."""
    # An order is found by the names of its items, so these have to exist before it.
    items = [
        {
            "order_id": number,
            "product_id": product.id,
            "ordered_quantity": quantity,
            "returned_quantity": 0,
            "gift_wrap_quantity": 0,
            "price": float(product.price),
            "expected_delivery_at": when,
            "delivered_at": when,
        }
        for number, (entries, when) in enumerate(orders, start=1)
        for product, quantity in entries
    ]
    stage.add("amazon.OrderItem", items)
    rows = [
        {
            "id": number,
            "user_id": stage.supervisor.id,
            "address_text": "Home",
            "payment_card_digits": str(stage.supervisor.card_number)[-4:],
            "created_at": when,
        }
        for number, (_, when) in enumerate(orders, start=1)
    ]
    stage.add("amazon.Order", rows)
