"""What a scenario file receives and what it returns. docs/scenarios.md is the guide to writing one.

A scenario file is `scenarios/<name>.py` and has six parts:
    SPLIT       the one split that it belongs to: train, dev, test_normal or test_challenge
    APPS        the apps that its tasks need, besides the supervisor
    DIFFICULTY  1, 2 or 3, as AppWorld means it: by the number of apps, APIs and steps
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
    given: dict[str, str | int]
    """The people and values that the instruction names, each word for word. The tests see them as `public_data`; in code
    `<name>` stands for one of them."""
    solution: list[str]
    """The ground-truth solution as an agent's turns: code strings run one after another, variables persist."""
    wrong: dict[str, list[str]]
    """Wrong solutions by the name of their mistake; `styles.wrong_solutions` adds the mistakes that fit any scenario."""
    num_api_calls: int
    """API calls that the solution makes."""
    answer: int | float | str | None = None
    private_data: dict = field(default_factory=dict)
    """What only the tests know."""


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
        """Draw `count` different people of the supervisor's partition, never the supervisor; no first name twice."""
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
