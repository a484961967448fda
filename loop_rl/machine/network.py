"""Addresses of this machine and of others, found and not asked for. IPv4."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915
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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without address
            if socket.inet_ntoa(reply[20:24]) == address or (name == "lo" and address.startswith("127.")):
                return name
    raise NoAddress(f"{address}: no interface of {socket.gethostname()} has this address")


def reserve_port(address: str) -> socket.socket:
    """A bound socket that keeps a free port of `address` until it is closed."""
    probe = socket.socket()
    probe.bind((address, 0))
    return probe
