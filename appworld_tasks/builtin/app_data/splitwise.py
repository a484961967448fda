"""Expenses and groups."""

from datetime import datetime

from appworld_tasks.builtin.population import Person
from appworld_tasks.builtin.scenario import Stage


def add_group(stage: Stage, name: str, others: list[Person], when: datetime):
    """Add a group of the supervisor and `others` and return its record; listings begin with the newest."""
    row = {"user_id": stage.supervisor.id, "name": name, "created_at": when}
    group = stage.add("splitwise.Group", [row])[0]
    members = [stage.supervisor, *others]
    stage.add("splitwise.GroupMember", [{"group_id": group.id, "user_id": person.id} for person in members])
    return group


def add_expenses(stage: Stage, expenses: list[tuple[Person, Person, int, datetime]], group=None) -> list:
    """Add expenses (payer, debtor, dollars that the debtor owes, when); each was shared equally by these two.

    Balances show people in the order of their first expense; a group's listing begins with the newest one.
    """
    rows = [
        {
            "user_id": payer.id,
            "group_id": group.id if group else None,
            "payer_id": payer.id,
            "debtor_ids": [payer.id, debtor.id],
            "description": stage.rng.choice(stage.words.nouns),
            "amount": 2.0 * share,
            "created_at": when,
        }
        for payer, debtor, share, when in expenses
    ]
    records = stage.add("splitwise.Expense", rows)
    shares = [
        {"expense_id": record.id, "debtor_id": person.id, "share_amount": float(share), "created_at": when}
        for record, (payer, debtor, share, when) in zip(records, expenses, strict=True)
        for person in (payer, debtor)
    ]
    stage.add("splitwise.ExpenseShare", shares)
    return records
