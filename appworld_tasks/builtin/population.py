"""Who lives in a pack and what its shared catalogues hold: planned in pure Python before any database exists.

Identifiers are positions: person number i (from 1) is user i in every app, song j is song j. The base databases and
the tasks are both written from this plan, so neither has to query the other.
"""

import random
from dataclasses import dataclass

from appworld_tasks.builtin.vocabulary import vocabulary

ACCOUNT_APPS = (
    "amazon",
    "phone",
    "file_system",
    "spotify",
    "venmo",
    "gmail",
    "splitwise",
    "simple_note",
    "todoist",
)
SONGS_PER_ARTIST = 6
MIN_PEOPLE = 11


@dataclass(frozen=True)
class Person:
    """One user of every app."""

    id: int
    partition: str
    first_name: str
    last_name: str
    email: str
    phone_number: str
    birthday: str
    sex: str
    card_number: int
    passwords: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"


@dataclass(frozen=True)
class Artist:
    id: int
    partition: str
    name: str


@dataclass(frozen=True)
class Song:
    id: int
    title: str
    artist_id: int
    duration: int


@dataclass(frozen=True)
class Product:
    id: int
    partition: str
    name: str
    price: int


@dataclass(frozen=True)
class Population:
    """The people and catalogues of one pack."""

    people: list[Person]
    artists: list[Artist]
    songs: list[Song]
    products: list[Product]


def plan_population(people_per_partition: dict[str, int], seed: int) -> Population:
    """Plan a pack's people, artists, songs and products, in the order of `people_per_partition`."""
    people: list[Person] = []
    artists: list[Artist] = []
    songs: list[Song] = []
    products: list[Product] = []
    for partition, num_people in people_per_partition.items():
        words = vocabulary(partition)
        rng = random.Random(f"population {seed} {partition}")
        if not MIN_PEOPLE <= num_people <= len(words.first_names):
            raise ValueError(
                f"{num_people} people for {partition}: choose {MIN_PEOPLE} to {len(words.first_names)}, "
                "what one task needs and as many as there are first names."
            )
        for first_name in rng.sample(words.first_names, num_people):
            people.append(_plan_person(len(people) + 1, partition, first_name, rng.choice(words.last_names), rng))
        num_artists = num_products = max(12, num_people // 3)
        new_artists = [
            Artist(len(artists) + index, partition, name)
            for index, name in enumerate(_two_word_names(rng, partition, num_artists), start=1)
        ]
        artists += new_artists
        # Libraries are listed by song id. Taking turns spreads an artist's songs over the pages of a library.
        for _ in range(SONGS_PER_ARTIST):
            for artist in new_artists:
                number = len(songs) + 1
                songs.append(Song(number, f"{artist.name} Song {number}", artist.id, rng.randrange(120, 300)))
        for name in _two_word_names(rng, partition, num_products):
            products.append(Product(len(products) + 1, partition, name, rng.randrange(5, 80)))
    return Population(people, artists, songs, products)


def _plan_person(number: int, partition: str, first_name: str, last_name: str, rng: random.Random) -> Person:
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    return Person(
        id=number,
        partition=partition,
        first_name=first_name,
        last_name=last_name,
        email=f"{first_name}.{last_name}@gmail.com".lower(),
        # The running number keeps phone and card numbers unique.
        phone_number=f"{rng.randrange(200, 990)}{number:04d}{rng.randrange(100, 999)}",
        birthday=f"{rng.randrange(1955, 2004)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        sex=rng.choice(["female", "male"]),
        card_number=4 * 10**15 + number * 10**8 + rng.randrange(10**8),
        passwords={app: "".join(rng.choices(letters, k=7)) for app in ACCOUNT_APPS},
    )


def _two_word_names(rng: random.Random, partition: str, count: int) -> list[str]:
    words = vocabulary(partition)
    pairs = [(adjective, noun) for adjective in words.adjectives for noun in words.nouns]
    if count > len(pairs):
        raise ValueError(f"{count} two-word names for {partition}: only {len(pairs)} exist.")
    return [f"{adjective} {noun}".title() for adjective, noun in rng.sample(pairs, count)]
