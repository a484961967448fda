"""Names and words, cut into partitions that share nothing, so that held-out tasks use values never seen in training."""

import importlib
import random
from dataclasses import dataclass
from functools import cache

from appworld_tasks.builtin.words import ADJECTIVES, NOUNS

# Shares of every list. Demonstrations need by far the most variety: a small language model only learns to copy a
# name it has never seen if it has copied very many different ones.
PARTITION_SHARES = {"warmup": 0.58, "train": 0.16, "dev": 0.07, "test_normal": 0.12, "test_challenge": 0.07}

# Faker ships these with AppWorld. Only names in plain ASCII are kept.
NAME_LOCALES = """
en_US en_GB en_IN en_NZ es_ES es_MX de_DE fr_FR it_IT nl_NL sv_SE pl_PL pt_BR tr_TR id_ID fi_FI no_NO da_DK
""".split()  # noqa: SIM905 (a paragraph of words reads better than a list of strings)


@dataclass(frozen=True)
class Vocabulary:
    """The names and words of one partition, in a fixed order."""

    first_names: list[str]
    last_names: list[str]
    adjectives: list[str]
    nouns: list[str]


@cache
def vocabulary(partition: str) -> Vocabulary:
    """Return the words of `partition`, one of PARTITION_SHARES."""
    if partition not in PARTITION_SHARES:
        raise ValueError(f"Unknown partition {partition!r}; choose from {', '.join(PARTITION_SHARES)}.")
    first_names = _faker_names("first_names")
    last_names = [name for name in _faker_names("last_names") if name not in set(first_names)]
    nouns = sorted(set(NOUNS) - set(ADJECTIVES))
    lists = {"first_names": first_names, "last_names": last_names, "adjectives": sorted(ADJECTIVES), "nouns": nouns}
    return Vocabulary(**{name: _slice(items, partition, name) for name, items in lists.items()})


def _faker_names(attribute: str) -> list[str]:
    names: set[str] = set()
    for locale in NAME_LOCALES:
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        names.update(getattr(provider, attribute, ()))
    words = {*ADJECTIVES, *NOUNS}  # a person called Lily would defeat the partition of the word "lily"
    plain = [name for name in names if name.isascii() and name.isalpha() and name.istitle() and 3 <= len(name) <= 8]
    return sorted(name for name in plain if name.lower() not in words)


def _slice(items: list[str], partition: str, salt: str) -> list[str]:
    """Shuffle once, the same way for every seed and partition, and cut out this partition's part."""
    shuffled = list(items)
    random.Random(f"partition {salt}").shuffle(shuffled)
    start = 0.0
    for name, share in PARTITION_SHARES.items():
        if name == partition:
            return shuffled[round(start * len(shuffled)) : round((start + share) * len(shuffled))]
        start += share
    raise AssertionError(partition)
