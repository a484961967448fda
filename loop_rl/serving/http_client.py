"""One request over HTTP, sent again while that can help, and connections that notice when the other side is gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import aiohttp

_CONNECT_TIMEOUT_S = 5.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_TOO_MANY_REQUESTS = 429
# An answer may honestly take minutes, so no read times out. It is the kernel that asks whether the other side is still
# there: a link that is cut without a word fails 4 + 3 * 3 s after the last sign of life.
_KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 12_000}
_REUSE_S = 4.0  # below the 5 s after which vLLM closes a connection that nobody uses


class RequestFailed(RuntimeError):
    """The other side refuses, or does not answer. The message is a predicate: "answers /x with status 500"."""

    def __init__(self, problem: str, status: int | None = None, body: str = "") -> None:
        super().__init__(problem)
        self.status = status
        """HTTP status; None when there was no answer."""
        self.body = body


def watchful_connector() -> aiohttp.TCPConnector:
    """Any number of connections at once, each of which fails within 15 s of its link."""
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=_REUSE_S, socket_factory=_watchful_socket)


def _watchful_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    connection = socket.socket(family, kind, protocol)
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if option := getattr(socket, name, None):  # Linux has all of them
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    path: str,
    timeout_s: float,
    body: dict[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
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
            async with session.request(method, url + path, json=body, timeout=timeout, headers=headers) as reply:
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
