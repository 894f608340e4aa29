"""Which addresses are on the public internet, and how hosts are spelled."""

from __future__ import annotations

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

import idna

Address: TypeAlias = IPv4Address | IPv6Address

# Tables of our own: `is_global` differs between Python's releases, and takes 6to4 and deprecated relays for public.
CLOSED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
"""IANA's registry of special-purpose addresses, multicast and the deprecated 6to4 relays"""
GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All else is local, multicast, reserved or carries an IPv4 address: `::1`, `::ffff:0:0/96`, `fc00::/7`, `fe80::/10`"""
CLOSED_IPV6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
"""Within it: protocol assignments (Teredo, ORCHID, benchmarking), documentation and 6to4"""
NAT64 = IPv6Network("64:ff9b::/96")
"""How a network that has IPv6 only shows the public IPv4 hosts: judged by the IPv4 address within"""

NAME = re.compile(r"(?!.{254})[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*", re.ASCII)
NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)", re.ASCII)
"""A last label like this makes a host an IPv4 address, as the URL standard and the C library have it"""


class InvalidHost(ValueError):
    """Neither a host's name nor an address; says why."""


def is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in CLOSED_IPV4)
    if address.scope_id is not None:
        return False
    if address in NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in GLOBAL_UNICAST and not any(address in network for network in CLOSED_IPV6)


def parse_address(text: str) -> Address | None:
    """The address that `text` spells in its usual way; None for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def canonical_host(spelled: str) -> str:
    """The one spelling of a host: a name in lower-case ASCII without a final dot, or an address as `ipaddress` has it.

    IPv4 addresses are read as the C library would: `127.1`, `0x7f.1`, `0177.0.0.1` and `2130706433` are `127.0.0.1`.
    Raises InvalidHost.
    """
    host = spelled[1:-1] if spelled.startswith("[") and spelled.endswith("]") else spelled
    if ":" in host:
        return _canonical_ipv6(host)
    host = _ascii(host).lower().removesuffix(".")
    if NAME.fullmatch(host) is None:
        raise InvalidHost("has no valid host")
    return _canonical_ipv4(host) if NUMBER.fullmatch(host) else host


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError as error:
        raise InvalidHost("has a host that is no valid international name") from error


def _canonical_ipv6(host: str) -> str:
    if "%" in host:
        raise InvalidHost("has an address with a zone")
    try:
        return str(IPv6Address(host))
    except ValueError as error:
        raise InvalidHost("has no valid IPv6 address") from error


def _canonical_ipv4(host: str) -> str:
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError as error:
        raise InvalidHost("has no valid IPv4 address") from error
