"""Fast inserts into AppWorld's tables.

The package's own `save` opens several sessions a row. Generating thousands of tasks needs one transaction a table, but
with the same columns filled: `record_hash` (the evaluator compares it) and the full-text search row.
"""

from sqlalchemy import text
from sqlmodel import Session


def insert(model: type, rows: list[dict]) -> list:
    """Insert `rows` into `model`'s table and return the records; rows without an id get the next free ones."""
    if not rows:
        return []
    # Explicit ids let SQLAlchemy send one statement for all rows, which keeps a task's change log short.
    next_id = _max_id(model) + 1
    records = [model.create(**{"id": next_id + index, **row}) for index, row in enumerate(rows)]
    for record in records:
        record._pre_change("create", None)
        record.set_record_hash()
    with Session(model.db.engine, expire_on_commit=False) as session:
        session.add_all(records)
        session.commit()
    for record in records:
        record.set_db_home_path()
    if model.searchable():
        _insert_search_rows(model, records)
    return records


def _max_id(model: type) -> int:
    with model.db.engine.connect() as connection:
        return connection.execute(text(f"SELECT COALESCE(MAX(id), 0) FROM {model.table_name}")).scalar()


def _insert_search_rows(model: type, records: list) -> None:
    rows = [
        {"id": record.id, "text": " ".join(record.computed_search_text.strip().lower().split())} for record in records
    ]
    statement = f"INSERT INTO {model.table_name}_fts (id, saved_search_text) VALUES (:id, :text)"
    with model.db.engine.connect() as connection:
        connection.execute(text(statement), rows)
        connection.commit()
