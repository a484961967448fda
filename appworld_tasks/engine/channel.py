"""JSON lines over a socket."""

import json
import socket
from typing import Any


class Channel:
    """One JSON object a line, in both directions.

    Agent code may replace or disable functions of `json`, `os` and `io` in its process, so everything needed later is
    bound here, once, before any of it runs.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._encode = json.JSONEncoder().encode
        self._decode = json.JSONDecoder().decode

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side has gone."""
        while (end := self._buffer.find(b"\n")) < 0:
            received = self._socket.recv(65536)
            if not received:
                return None
            self._buffer += received
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return self._decode(line.decode())

    def send(self, message: dict[str, Any]) -> None:
        """Send one message. Raises OSError when the other side has gone."""
        self._socket.sendall(self._encode(message).encode() + b"\n")

    def close(self) -> None:
        self._socket.close()
