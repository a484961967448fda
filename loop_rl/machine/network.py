"""Addresses of this machine and of others, found and not asked for. IPv4."""

from __future__ import annotations

import socket

import psutil

_ANY_PORT = 9


class NoAddress(ValueError):
    """A host name that means nothing here, or an address that this machine does not have."""


def address_of(host: str) -> str:
    """Address of a host name. Raises NoAddress."""
    try:
        return socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except socket.gaierror as error:
        raise NoAddress(
            f"{host}: no such host ({error.strerror}); give its name as this machine knows it, or its address"
        ) from error


def own_address(towards: str) -> str:
    """Address of this machine that packets to another one carry. Nothing is sent. Raises NoAddress."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, _ANY_PORT))
        except OSError as error:
            raise NoAddress(f"{towards}: cannot be reached from {socket.gethostname()}: {error.strerror}") from error
        return probe.getsockname()[0]


def is_own(address: str) -> bool:
    """Whether this machine has the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def interface_of(address: str) -> str:
    """Network interface that has an address of this machine. Raises NoAddress."""
    for name, addresses in psutil.net_if_addrs().items():
        own = {entry.address for entry in addresses if entry.family == socket.AF_INET}
        if address in own or ("127.0.0.1" in own and address.startswith("127.")):
            return name
    raise NoAddress(f"{address}: no interface of {socket.gethostname()} has this address")


def reserve_port(address: str) -> socket.socket:
    """A bound socket that keeps a free port of `address` until it is closed."""
    probe = socket.socket()
    probe.bind((address, 0))
    return probe
