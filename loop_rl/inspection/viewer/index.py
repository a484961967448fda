"""The index of a run's rollouts: one SQLite file, from which the viewer lists, sorts and searches.

It holds what a list shows and the words of every episode, never tokens; a rollout itself is read from its parquet file.
The parquet files are the truth, so the index may be deleted. It is brought up to date file by file: what
has not changed (path, size, time) is not read again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from loop_rl.inspection.viewer.rows import ROW, UNUSABLE, read_advantages, read_rows
from loop_rl.store.run_dir import RunDir

INDEX_VERSION = 2
TRAINING, UNFINISHED, DROPPED = "training", "unfinished", "dropped"
SAMPLED = (TRAINING, UNFINISHED, DROPPED)
"""Sources of what was rolled out for training; all others are evaluations."""
SORTABLE = [
    "rollout_id",
    "source",
    "task_id",
    "family",
    "label",
    "iteration",
    "max_version",
    "reward",
    "advantage",
    "end_reason",
    "num_turns",
    "action_tokens",
    "duration_s",
    "started_at",
]

_TABLES = f"""
CREATE TABLE files (file_id INTEGER PRIMARY KEY, path TEXT UNIQUE, size INTEGER, mtime_ns INTEGER, problem TEXT);
CREATE TABLE rollouts (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, so that words of a replaced row match no other
    rollout_id TEXT UNIQUE, file_id INTEGER, source TEXT, group_id INTEGER, iteration INTEGER, task_id TEXT,
    family TEXT, label TEXT, instruction TEXT, min_version INTEGER, max_version INTEGER, reward REAL,
    success INTEGER, end_reason TEXT, num_turns INTEGER, action_tokens INTEGER, duration_s REAL, started_at REAL,
    advantage REAL
);
CREATE TABLE advantages (rollout_id TEXT PRIMARY KEY, advantage REAL) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (text, content='', tokenize="unicode61 tokenchars '_'");
CREATE TABLE state (generation INTEGER);
INSERT INTO state VALUES (0);
CREATE INDEX by_file ON rollouts (file_id);
CREATE INDEX by_group ON rollouts (group_id);
{"".join(f"CREATE INDEX by_{column} ON rollouts ({column});" for column in SORTABLE if column != "rollout_id")}
PRAGMA user_version = {INDEX_VERSION};
"""
_INSERT = (
    f"INTO rollouts (file_id, source, {', '.join(ROW)}, advantage) VALUES (?, ?, {', '.join('?' * len(ROW))}, "
    "(SELECT advantage FROM advantages WHERE advantages.rollout_id = ?))"
)
_COMMIT_EVERY_S = 0.5


@dataclass(frozen=True)
class Progress:
    """How far the index is behind the run directory."""

    done: int
    total: int
    """Parquet files there are."""


class Index:
    """The index of one run. Every thread reads through a connection of its own; one thread at a time updates.

    It lies in the run directory as `.index.sqlite`, or in a temporary folder where that cannot be written. One of
    another version, or damaged, is made anew.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.path = run.path / ".index.sqlite"
        self.progress: Progress | None = None  # before the first look at the run directory
        self.stopped = ""  # why `follow` gave up
        self._temporary: tempfile.TemporaryDirectory | None = None
        try:
            self._open()
        except sqlite3.OperationalError:  # a read-only folder
            self._temporary = tempfile.TemporaryDirectory(prefix="loop_rl-view-")
            self.path = Path(self._temporary.name) / "index.sqlite"
            self._open()

    def connect(self) -> sqlite3.Connection:
        """A connection for the calling thread; rows give their fields by name."""
        connection = sqlite3.connect(self.path, timeout=30)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = OFF")  # a power cut costs a rebuild, no data
        return connection

    def update(self, stop: threading.Event | None = None) -> None:
        """Read every file that is new or has changed, newest first, and forget those that are gone.

        Files may appear, change and vanish meanwhile. A file that cannot be used is kept as a problem.

        Args:
            stop: set from another thread, ends the update early.
        """
        with closing(self.connect()) as connection:
            known = {row["path"]: row for row in connection.execute("SELECT * FROM files")}
            there = dict(self._scan())
            changed = [path for path, stat in there.items() if _changed(known.get(path), stat)]
            changed.sort(key=lambda path: there[path].st_mtime_ns, reverse=True)
            num_unchanged = len(there) - len(changed)
            self.progress = Progress(num_unchanged, len(there))
            committed = time.monotonic()
            for num_read, path in enumerate(changed, start=1):
                self._update_file(connection, path, there[path])
                if num_read == len(changed) or time.monotonic() - committed > _COMMIT_EVERY_S:
                    _commit(connection)
                    committed = time.monotonic()
                    self.progress = Progress(num_unchanged + num_read, len(there))
                    if stop and stop.is_set():
                        return
            # Last, so that a finished group's rollouts have moved to its file before their pieces go.
            if gone := known.keys() - there.keys():
                for path in gone:
                    _forget(connection, known[path]["file_id"])
                _commit(connection)

    def follow(self, stop: threading.Event) -> None:
        """Keep up with the run until `stop` is set; a large run is looked at less often."""
        try:
            while not stop.is_set():
                started = time.monotonic()
                self.update(stop)
                stop.wait(max(2.0, 5 * (time.monotonic() - started)))
        except (sqlite3.Error, OSError) as error:  # a full disk, say: what is there can still be read
            self.stopped = f"{self.path}: the index cannot be updated: {error}"

    def problems(self, most: int = -1) -> tuple[list[tuple[str, str]], int]:
        """(file, why it cannot be used) of the first `most` such files, all by default, and how many there are."""
        with closing(self.connect()) as connection:
            which = "FROM files WHERE problem IS NOT NULL"
            first = connection.execute(f"SELECT path, problem {which} ORDER BY path LIMIT ?", (most,)).fetchall()
            return [tuple(row) for row in first], connection.execute(f"SELECT count(*) {which}").fetchone()[0]

    def _open(self) -> None:
        try:
            with closing(self.connect()) as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] == INDEX_VERSION:
                    _commit(connection)  # finds out whether the folder can be written
                    return
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            pass  # not a database
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        with closing(self.connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers go on while the writer writes
            connection.executescript(f"BEGIN; {_TABLES} COMMIT;")

    def _scan(self) -> Iterator[tuple[str, os.stat_result]]:
        """Path relative to the run and state of every parquet file."""
        rollouts = self.run.path / "rollouts"
        folders = [
            self.run.unfinished_rollouts,
            self.run.train_rollouts,
            self.run.dropped_rollouts,
            self.run.eval_rollouts,
        ]
        folders += rollouts.glob("eval/.v*")  # pieces of an evaluation under way
        folders.append(self.run.update_file(0).parent)
        for folder in folders:
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                    # Pieces of a group, or of an evaluation, vanish when it is finished.
                    with contextlib.suppress(FileNotFoundError):
                        yield os.path.relpath(entry.path, self.run.path), entry.stat()

    def _update_file(self, connection: sqlite3.Connection, name: str, stat: os.stat_result) -> None:
        path, problem = self.run.path / name, None
        file_id = connection.execute(
            "INSERT INTO files (path) VALUES (?) ON CONFLICT (path) DO UPDATE SET path = path RETURNING file_id",
            (name,),
        ).fetchone()[0]
        try:
            if path.parent == self.run.update_file(0).parent:
                _store_advantages(connection, read_advantages(path))
            else:
                rows = read_rows(path)
                connection.execute("DELETE FROM rollouts WHERE file_id = ?", (file_id,))
                source = _source(self.run, path)
                # The piece of a finished group says nothing new.
                verb = "INSERT OR IGNORE" if source == UNFINISHED else "INSERT OR REPLACE"
                _store_rows(connection, verb, file_id, source, rows)
        except FileNotFoundError:  # its group, or its evaluation, has been finished since
            _forget(connection, file_id)
            return
        except UNUSABLE as error:
            connection.execute("DELETE FROM rollouts WHERE file_id = ?", (file_id,))
            problem = " ".join(str(error).split())
        connection.execute(
            "UPDATE files SET size = ?, mtime_ns = ?, problem = ? WHERE file_id = ?",
            (stat.st_size, stat.st_mtime_ns, problem, file_id),
        )


def _changed(known: sqlite3.Row | None, stat: os.stat_result) -> bool:
    return known is None or (known["size"], known["mtime_ns"]) != (stat.st_size, stat.st_mtime_ns)


def _source(run: RunDir, path: Path) -> str:
    if path.parent == run.train_rollouts:
        return TRAINING
    if path.parent == run.unfinished_rollouts:
        return UNFINISHED
    if path.parent == run.dropped_rollouts:
        return DROPPED
    name = path.stem if path.parent == run.eval_rollouts else path.parent.name.removeprefix(".")
    evaluation = re.fullmatch(r"v(\d+)-(.+)", name)
    return f"{evaluation[2]} v{int(evaluation[1])}" if evaluation else name


def _store_rows(
    connection: sqlite3.Connection, verb: str, file_id: int, source: str, rows: Iterable[tuple[list, str]]
) -> None:
    for values, words in rows:
        cursor = connection.execute(f"{verb} {_INSERT}", (file_id, source, *values, values[0]))
        if cursor.rowcount:
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (cursor.lastrowid, words))


def _store_advantages(connection: sqlite3.Connection, advantages: list[tuple[float, str]]) -> None:
    # Kept beside the rollouts too, as a file of rollouts may be read after the update that they were for.
    connection.executemany("INSERT OR REPLACE INTO advantages (advantage, rollout_id) VALUES (?, ?)", advantages)
    connection.executemany("UPDATE rollouts SET advantage = ? WHERE rollout_id = ?", advantages)


def _forget(connection: sqlite3.Connection, file_id: int) -> None:
    connection.execute("DELETE FROM rollouts WHERE file_id = ?", (file_id,))
    connection.execute("DELETE FROM files WHERE file_id = ?", (file_id,))


def _commit(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE state SET generation = generation + 1")
    connection.commit()
