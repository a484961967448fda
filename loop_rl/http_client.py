"""One request over HTTP, sent again while that can help."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

_CONNECT_TIMEOUT_S = 10.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_TOO_MANY_REQUESTS = 429


class RequestFailed(RuntimeError):
    """The other side refuses, or does not answer; what it does or does not do, as the end of a sentence."""

    def __init__(self, problem: str, status: int | None = None, body: str = "") -> None:
        super().__init__(problem)
        self.status = status
        """HTTP status; None when there was no answer."""
        self.body = body


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    path: str,
    timeout_s: float,
    body: dict[str, Any] | None = None,
    *,
    num_attempts: int = 3,
) -> str:
    """Body of the answer of `url + path`.

    A request that failed is sent again, each time after twice the wait: for the requests of this package doing them
    twice costs time, nothing else. One that got no answer in all its time is not, as that server hangs.

    Raises:
        RequestFailed: so did the last attempt, or the request is at fault, and would be again.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
    wait_s = _FIRST_WAIT_S
    for attempt in range(1, num_attempts + 1):
        try:
            async with session.request(method, url + path, json=body, timeout=timeout) as reply:
                text = await reply.text()
            if reply.status == 200:
                return text
            problem = f"answers {path} with status {reply.status}: {text.strip()[:300]}"
            failed = RequestFailed(problem, reply.status, text)
            if reply.status < 500 and reply.status != _TOO_MANY_REQUESTS:
                break
        except aiohttp.ClientError as error:
            failed = RequestFailed(f"does not answer ({error or type(error).__name__})")
        except TimeoutError:
            failed = RequestFailed(f"has not answered {path} within {timeout_s:.0f} s")
            break
        if attempt < num_attempts:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
    raise failed
