"""The frame of every command a person runs: errors in one line, Ctrl-C and SIGTERM alike end it cleanly."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

INTERRUPTED = 130
T = TypeVar("T")


def run_command(work: Callable[[], None], interrupted: str, errors: tuple[type[Exception], ...] = ()) -> int:
    """Do `work` and return the exit status.

    Args:
        interrupted: what to tell a user who pressed Ctrl-C.
        errors: what else, beside ValueError and OSError, is the input's or the machine's fault and not a bug.
    """
    # A process that is told to end ends its children too, exactly as on Ctrl-C. Both are set, because a shell starts
    # what it runs in the background with SIGINT ignored, which children would inherit.
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, signal.default_int_handler)
    try:
        work()
    except (ValueError, OSError, *errors) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    return 0


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run for `work`, which SIGINT and SIGTERM cancel; then raises KeyboardInterrupt.

    asyncio.run's own handling of SIGINT misses a signal that arrives just before the event loop goes to sleep, and then
    sleeps on (seen once in some hundred runs); a handler of the loop has a file descriptor to wake it.
    """

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
