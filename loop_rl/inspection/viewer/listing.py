"""The list of rollouts: what a reader may ask for in the address, and the page of rows that answers it."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass

from loop_rl.inspection.viewer.index import SAMPLED, SORTABLE, Index

PAGE_SIZE = 100
# A filter that leaves fewer rows than this is followed by a sort of these; with more, walking the sort's own index
# meets a page of them soon.
_FEW = 20_000
_LAST_TEXT = "\U0010ffff"
_LISTED = (
    "rollout_id, source, group_id, iteration, task_id, family, label, instruction, min_version, max_version, "
    "reward, success, end_reason, num_turns, action_tokens, duration_s, started_at, advantage"
)


class QueryError(ValueError):
    """The address asks for something that there cannot be; one line that says what is possible."""


@dataclass(frozen=True)
class Query:
    """What the list shows: conditions in SQL with their values, the order, the page."""

    conditions: tuple[str, ...]
    values: tuple[str | float, ...]
    sort: str
    descending: bool
    page: int
    """From 1."""


@dataclass(frozen=True)
class Listing:
    """One page of the list."""

    rows: list[sqlite3.Row]
    num_matching: int
    num_rollouts: int
    num_pages: int


def parse_query(parameters: Mapping[str, str], end_reasons: Collection[str]) -> Query:
    """Read the parameters of the address; absent and empty ones ask for nothing.

    Args:
        end_reasons: that there are.

    Raises:
        QueryError: one of them cannot be used.
    """
    given = {name: value.strip() for name, value in parameters.items() if value.strip()}
    conditions: list[str] = []
    values: list[str | float] = []
    for name, column in (("task", "task_id"), ("scenario", "family")):
        if name in given:  # as a prefix, written so that the column's index serves it
            conditions.append(f"{column} >= ? AND {column} < ?")
            values += [given[name], given[name] + _LAST_TEXT]
    for name, column in (("source", "source"), ("end", "end_reason"), ("label", "label")):
        if name in given:
            conditions.append(f"{column} = ?")
            values.append(given[name])
    if "end" in given and given["end"] not in end_reasons:
        raise QueryError(f"end={given['end']}: no reason of ending; there are {', '.join(end_reasons)}")
    ranges = {name: f"{name} BETWEEN ? AND ?" for name in ("iteration", "reward", "advantage")}
    # A rollout belongs to every version that wrote a turn of it.
    ranges["version"] = "max_version >= ? AND min_version <= ?"
    for name, condition in ranges.items():
        if name in given:
            conditions.append(condition)
            values += _range(name, given[name])
    if "text" in given:
        conditions.append("row IN (SELECT rowid FROM words WHERE words MATCH ?)")
        values.append(_words(given["text"]))
    sort = given.get("sort", "started_at")
    if sort not in SORTABLE:
        raise QueryError(f"sort={sort}: cannot sort by that; there are {', '.join(SORTABLE)}")
    order = given.get("order", "desc")
    if order not in ("asc", "desc"):
        raise QueryError(f"order={order}: expected asc or desc")
    page = given.get("page", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", page):
        raise QueryError(f"page={page}: expected a whole number from 1")
    return Query(tuple(conditions), tuple(values), sort, order == "desc", int(page))


class Lister:
    """Answers queries from the index; counts are remembered until the index changes."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._counts: tuple[int, dict[tuple, int]] = (-1, {})  # generation of the index, and counts in it

    def find(self, query: Query) -> Listing:
        """The page that a query asks for; one beyond the last is empty."""
        with closing(self._index.connect()) as connection:
            num_matching = self._count(connection, query.conditions, query.values)
            num_rollouts = self._count(connection, (), ())
            direction = "DESC" if query.descending else "ASC"
            order = f"{query.sort} {direction} NULLS LAST, row {direction}"  # equal ones in one order on every page
            lead = ""
            if num_matching < _FEW:
                order = f"+{order}"  # a plus takes the sort's index out of SQLite's choice
            elif query.sort != "rollout_id":
                lead = f"INDEXED BY by_{query.sort}"
            where = f"WHERE {' AND '.join(query.conditions)}" if query.conditions else ""
            rows = connection.execute(
                f"SELECT {_LISTED} FROM rollouts {lead} {where} ORDER BY {order} LIMIT ? OFFSET ?",
                (*query.values, PAGE_SIZE, (query.page - 1) * PAGE_SIZE),
            ).fetchall()
        return Listing(rows, num_matching, num_rollouts, max(1, math.ceil(num_matching / PAGE_SIZE)))

    def choices(self, column: str, most: int = 500) -> list:
        """The first distinct values of a column, found by leaping through its index from one to the next."""
        with closing(self._index.connect()) as connection:
            found = connection.execute(
                f"WITH RECURSIVE distinct_values (value) AS (SELECT min({column}) FROM rollouts UNION ALL "
                f"SELECT (SELECT min({column}) FROM rollouts WHERE {column} > value) FROM distinct_values "
                "WHERE value IS NOT NULL) SELECT value FROM distinct_values WHERE value IS NOT NULL LIMIT ?",
                (most,),
            )
            return [row[0] for row in found]

    def rollout(self, rollout_id: str) -> sqlite3.Row | None:
        """What the index knows of a rollout, its file included; None when it knows no such rollout."""
        with closing(self._index.connect()) as connection:
            return connection.execute(
                "SELECT rollouts.*, path FROM rollouts JOIN files USING (file_id) WHERE rollout_id = ?", (rollout_id,)
            ).fetchone()

    def group(self, group_id: int) -> list[sqlite3.Row]:
        """As `rollout`, of the training rollouts of a group; empty when there are none."""
        with closing(self._index.connect()) as connection:
            return connection.execute(
                "SELECT rollouts.*, path FROM rollouts JOIN files USING (file_id) WHERE group_id = ? "
                f"AND source IN ({', '.join('?' * len(SAMPLED))}) ORDER BY rollout_id",
                (group_id, *SAMPLED),
            ).fetchall()

    def neighbours(self, rollout_id: str) -> tuple[str | None, str | None]:
        """The rollout ids before and after this one."""
        with closing(self._index.connect()) as connection:
            return connection.execute(
                "SELECT (SELECT max(rollout_id) FROM rollouts WHERE rollout_id < ?1), "
                "(SELECT min(rollout_id) FROM rollouts WHERE rollout_id > ?1)",
                (rollout_id,),
            ).fetchone()

    def generation(self) -> int:
        """Changes whenever the index does."""
        with closing(self._index.connect()) as connection:
            return connection.execute("SELECT generation FROM state").fetchone()[0]

    def _count(self, connection: sqlite3.Connection, conditions: tuple[str, ...], values: tuple) -> int:
        generation = connection.execute("SELECT generation FROM state").fetchone()[0]
        known_generation, counts = self._counts
        if generation != known_generation:
            counts = {}
            self._counts = (generation, counts)
        if (conditions, values) not in counts:
            where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
            counts[conditions, values] = connection.execute(
                f"SELECT count(*) FROM rollouts {where}", values
            ).fetchone()[0]
        return counts[conditions, values]


def _range(name: str, text: str) -> tuple[float, float]:
    """`3`, `3..5`, `3..` or `..5`, both ends included."""
    low, dots, high = text.partition("..")
    try:
        first = float(low) if low else -math.inf
        last = (float(high) if high else math.inf) if dots else first
    except ValueError:
        first = last = math.nan
    if math.isnan(first) or math.isnan(last) or text == "..":
        raise QueryError(f"{name}={text}: expected a number or a range, for example 3, 3..5, 3.. or ..5")
    return first, last


def _words(text: str) -> str:
    """An FTS5 query for rollouts that hold every word and every phrase in quotes, each as written or going on; `a.b` is
    found as a phrase."""
    phrases = ["".join(found) for found in re.findall(r'"([^"]*)"|(\S+)', text.replace("\0", " "))]
    phrases = [phrase.replace('"', '""') for phrase in phrases if re.search(r"\w", phrase)]
    if not phrases:
        raise QueryError(f"text={text}: nothing to search for; only letters, digits and _ are searched")
    return " ".join(f'"{phrase}"*' for phrase in phrases)
