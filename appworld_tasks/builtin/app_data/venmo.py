"""Payments and friends."""

from datetime import datetime

from appworld_tasks.builtin.population import Person
from appworld_tasks.builtin.scenario import Stage


def add_friends(stage: Stage, people: list[Person]) -> None:
    """Make people Venmo friends of the supervisor; they are listed in this order."""
    stage.add("venmo.Friendship", [{"user_id": stage.supervisor.id, "friend_id": person.id} for person in people])


def add_payments(stage: Stage, payments: list[tuple[Person, Person, int, datetime]]) -> list:
    """Add payments (sender, receiver, dollars, when); listings show them in this order."""
    rows = [
        {
            "sender_id": sender.id,
            "receiver_id": receiver.id,
            "amount": float(amount),
            "description": "",
            "created_at": when,
            "updated_at": when,
        }
        for sender, receiver, amount, when in payments
    ]
    return stage.add("venmo.Transaction", rows)


def add_requests(
    stage: Stage, requests: list[tuple[Person, Person, int, datetime]], answered_at: str | None = None
) -> list:
    """Add payment requests (sender, receiver, dollars, when); listings begin with the newest.

    answered_at: "approved_at" or "denied_at" makes them so; None leaves them pending.
    """
    rows = [
        {
            "sender_id": sender.id,
            "receiver_id": receiver.id,
            "amount": float(amount),
            "description": stage.rng.choice(stage.words.nouns),
            "created_at": when,
            "updated_at": when,
            **({answered_at: stage.ago(minutes=30)} if answered_at else {}),
        }
        for sender, receiver, amount, when in requests
    ]
    return stage.add("venmo.PaymentRequest", rows)
