"""What a scenario file receives and what it returns.

A scenario file is `scenarios/<template>.py` and has five parts:
    APPS        the apps that its tasks need, besides the supervisor
    DIFFICULTY  1 or 2
    TESTS       {requirement: "no_op_fail" | "no_op_pass"}: would an agent that does nothing fail or pass it?
    set_up()    adds one task's rows to the databases and returns its Draft
    evaluate()  the tests, copied into the task's `evaluation.py` after the source of checks.py
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from appworld_tasks.builtin.population import Artist, Person, Population, Product, Song
from appworld_tasks.builtin.vocabulary import Vocabulary


@dataclass(frozen=True)
class Draft:
    """One task of a scenario."""

    instruction: str
    solution: list[str]
    """The ground-truth solution as an agent's turns: code strings run one after another, variables persist."""
    flawed: dict[str, list[str]]
    """The same task done with a typical mistake each, by name of the mistake."""
    num_api_calls: int
    answer: int | float | str | None = None
    public_data: dict = field(default_factory=dict)
    private_data: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """Everything a scenario draws its people and values from, and the one way to add rows."""

    rng: random.Random
    supervisor: Person
    population: Population
    words: Vocabulary
    now: datetime
    add: Callable[[str, list[dict]], list]
    """add("venmo.Transaction", rows) inserts rows into the task's databases and returns the records."""

    def ago(self, **duration: int) -> datetime:
        """The moment this long before the task's present, e.g. ago(hours=2)."""
        return self.now - timedelta(**duration)

    def people(self, count: int) -> list[Person]:
        """Draw `count` different people of the supervisor's partition, never the supervisor."""
        others = [
            person
            for person in self.population.people
            if person.partition == self.supervisor.partition and person.id != self.supervisor.id
        ]
        return self.rng.sample(others, count)

    def artists(self, count: int) -> list[Artist]:
        """Draw `count` different artists of the partition's catalogue."""
        candidates = [a for a in self.population.artists if a.partition == self.supervisor.partition]
        return self.rng.sample(candidates, count)

    def songs_of(self, artist: Artist) -> list[Song]:
        """All songs of one artist."""
        return [song for song in self.population.songs if song.artist_id == artist.id]

    def library_of(self, artist: Artist, num_wanted: int, num_others: int) -> tuple[list[Song], list[Song]]:
        """Draw songs by `artist` and by others such that a listing by id has the artist on both of its pages.

        Returns (the artist's songs, all songs). A page holds 20, so an agent that reads only one misses something.
        """
        others = [song for other in self.artists(9) if other != artist for song in self.songs_of(other)]
        while True:
            wanted = self.rng.sample(self.songs_of(artist), num_wanted)
            library = sorted([*wanted, *self.rng.sample(others, num_others)], key=lambda song: song.id)
            positions = [library.index(song) for song in wanted]
            if min(positions) < 20 <= max(positions) and len(library) <= 40:
                return wanted, library

    def products(self, count: int) -> list[Product]:
        """Draw `count` different products of the partition's catalogue."""
        candidates = [p for p in self.population.products if p.partition == self.supervisor.partition]
        return self.rng.sample(candidates, count)

    def nouns(self, count: int) -> list[str]:
        """Draw `count` different nouns."""
        return self.rng.sample(self.words.nouns, count)

    def titles(self, count: int) -> list[str]:
        """Draw `count` different titles like "Velvet Harbor", no noun twice."""
        return [f"{self.rng.choice(self.words.adjectives)} {noun}".title() for noun in self.nouns(count)]

    def projects(self, names: list[str]) -> list:
        """Add Todoist projects of the supervisor; the listing, newest first, starts with the last of `names`."""
        rows = [
            {"user_id": self.supervisor.id, "name": name, "created_at": self.ago(days=len(names) - index)}
            for index, name in enumerate(names)
        ]
        projects = self.add("todoist.Project", rows)
        links = [{"project_id": project.id, "user_id": self.supervisor.id} for project in projects]
        self.add("todoist.ProjectCollaboratorLink", links)
        return projects

    def todos(self, project, columns: list[dict]) -> list:
        """Add one Todoist task to `project` for each entry of `columns`."""
        rows = [
            {
                "project_id": project.id,
                "user_id": self.supervisor.id,
                "title": title,
                "order_index": index,
                **column,
            }
            for index, (title, column) in enumerate(zip(self.nouns(len(columns)), columns, strict=True))
        ]
        return self.add("todoist.Task", rows)
