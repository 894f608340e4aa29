"""What a connection may do: how much, how slowly, and in which form. The HTTP parser has refused the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedway.errors import HeadTooLarge, MalformedHttp

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line and headers; likewise of chunk extensions and trailers, which nobody here reads."""
MAX_HEADERS = 128
MAX_LENGTH_DIGITS = 20
"""Of a Content-Length, leading zeros included"""
MAX_PIPELINED = 64
"""Requests that wait for the answers before them: 18 bytes become some thousand here."""
LEAST_BYTES_PER_SECOND = 1024
"""What a client must send of a body, and take of an answer, once it is late."""
LINGER_SECONDS = 2.0
"""A client that still sends would lose an error to the reset which a close brings: it is listened to for so long."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    max_connections: int
    """Of this process"""
    max_body_bytes: int
    receive_timeout: float
    """Seconds for a TLS handshake, for a request's head, and between two looks at how much came of its body"""
    send_timeout: float
    """Seconds between two looks at how much a client took of its answer"""


def check_head(version: str, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise MalformedHttp or HeadTooLarge for a head that the parser lets through.

    Names are in small letters. Whatever two servers in a row might read differently is refused (RFC 9112, 3.2 and 6.1).
    """
    if version not in ("1.0", "1.1"):
        raise MalformedHttp(problem="only HTTP/1.0 and HTTP/1.1 are spoken here")
    num_bytes, num_hosts = len(url), 0
    for name, value in headers:
        num_bytes += len(name) + len(value)
        if name == b"host":
            num_hosts += 1
        elif name == b"content-length" and len(value) > MAX_LENGTH_DIGITS:
            raise MalformedHttp(problem=f"a Content-Length has at most {MAX_LENGTH_DIGITS} digits")
        elif name == b"transfer-encoding" and (version == "1.0" or value.strip().lower() != b"chunked"):
            raise MalformedHttp(problem="the only Transfer-Encoding is 'chunked', in HTTP/1.1")
    if num_bytes > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
        raise HeadTooLarge(limit=MAX_HEAD_BYTES, headers=MAX_HEADERS)
    if num_hosts > 1 or (num_hosts == 0 and version == "1.1"):
        raise MalformedHttp(problem="there must be one Host")
