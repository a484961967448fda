"""Progress of a long phase: a bar on a terminal, a line every tenth of the way in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield `items`, showing how many of `total` are done."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label)
        return
    for done, item in enumerate(items, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{label}: {done}/{total}", file=sys.stderr, flush=True)
