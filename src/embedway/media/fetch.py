"""Fetcher: an http(s) URL → the bytes there, within the rules."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass

import anyio
import certifi
import httpcore

from embedway.errors import InvalidValue, MediaFetchFailed, MediaNotAllowed, MediaTooLarge, RequestError
from embedway.media.checked_network import CheckedNetwork, ForbiddenAddress, Resolver, UnknownHost
from embedway.media.host_turns import HostTurns
from embedway.media.media_url import InvalidUrl, MediaUrl, parse_url
from embedway.media.rules import MediaRules
from embedway.version import __version__
from embedway.visual import MediaKind

MOST_REDIRECTS = 3
MOST_FETCHES = 32
MOST_FETCHES_OF_ONE_HOST = 8
IDLE_SECONDS = 10.0
"""That a connection is kept for the next fetch"""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
ACCEPTED: dict[MediaKind, bytes] = {
    "image": b"image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff;q=0.9, */*;q=0.1",
    "video": b"video/*, */*;q=0.1",
}
WEB_PAGES = (b"text/html", b"application/xhtml+xml")

FAULTS: tuple[tuple[type[BaseException], type[RequestError], str], ...] = (
    (
        ForbiddenAddress,
        MediaNotAllowed,
        "the host's address is not public, and --allowed-media-domains does not name the host",
    ),
    (UnknownHost, MediaFetchFailed, "the host's name cannot be resolved"),
    (ssl.SSLCertVerificationError, MediaFetchFailed, "the host's TLS certificate is not valid"),
    (ssl.SSLError, MediaFetchFailed, "TLS with the host cannot be set up"),
    (httpcore.ConnectError, MediaFetchFailed, "the host cannot be reached"),
    (httpcore.ProtocolError, MediaFetchFailed, "the host's answer is not valid HTTP, or is cut short"),
    (httpcore.NetworkError, MediaFetchFailed, "the connection broke off"),
    (OSError, MediaFetchFailed, "the connection broke off"),
)
"""What may go wrong on the way; the first match wins. Foreign errors name addresses: no word of theirs is passed on"""


@dataclass(frozen=True, slots=True)
class Redirect:
    location: str


class Fetcher:
    """One a process: its connections are kept, cookies and credentials are not, and no proxy is asked."""

    def __init__(self, rules: MediaRules, resolve: Resolver, tls: ssl.SSLContext) -> None:
        self._rules = rules
        self._turns = HostTurns(most=MOST_FETCHES, most_of_one_host=MOST_FETCHES_OF_ONE_HOST)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=MOST_FETCHES,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=CheckedNetwork(resolve, public_only=not rules.allowed_domains),
        )

    async def fetch(self, given: str, *, kind: MediaKind, param: str) -> bytes:
        """Raises InvalidValue, MediaNotAllowed, MediaFetchFailed or MediaTooLarge.

        One deadline holds for all redirects, of which none leads from https to http. Waiting for a turn is not counted:
        a request with many items of one host would else fail by its own size.
        """
        if not self._rules.allows_remote:
            raise MediaNotAllowed(param=param, problem="the server was started with --no-remote-media")
        try:
            url = parse_url(given)
        except InvalidUrl as error:
            raise InvalidValue(param=param, problem=str(error)) from error
        seconds_left = self._rules.timeout_seconds
        for num_redirects in range(MOST_REDIRECTS + 1):
            self._check_host(url, num_redirects, param)
            async with self._turns.take(url.host):
                started = time.monotonic()
                answer = await self._get_within(seconds_left, url, kind, param)
                seconds_left -= time.monotonic() - started
            if isinstance(answer, bytes):
                return answer
            url = _follow(url, answer, param)
        raise MediaFetchFailed(param=param, problem=f"there are more than {MOST_REDIRECTS} redirects")

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _check_host(self, url: MediaUrl, num_redirects: int, param: str) -> None:
        if not self._rules.allows_host(url.host, url.port):
            whose = "a host that it redirects to" if num_redirects else "its host"
            raise MediaNotAllowed(param=param, problem=f"{whose} is not among --allowed-media-domains")

    async def _get_within(self, seconds: float, url: MediaUrl, kind: MediaKind, param: str) -> bytes | Redirect:
        try:
            with anyio.fail_after(max(seconds, 0)):
                return await self._get(url, kind, param)
        except TimeoutError as error:
            limit = f"{self._rules.timeout_seconds:g} seconds"
            raise MediaFetchFailed(param=param, problem=f"it took longer than {limit} (--media-timeout)") from error
        except tuple(fault for fault, _, _ in FAULTS) as error:
            raise _translated(error, param) from error

    async def _get(self, url: MediaUrl, kind: MediaKind, param: str) -> bytes | Redirect:
        asked = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        async with self._pool.stream("GET", asked, headers=_request_headers(url, kind)) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in headers:
                return Redirect(headers[b"location"].decode("utf-8", "replace"))
            self._check_answer(response.status, headers, param)
            return await self._read_body(response, param)

    def _check_answer(self, status: int, headers: dict[bytes, bytes], param: str) -> None:
        if status != 200:
            raise MediaFetchFailed(param=param, problem=f"the host answers with status {status}")
        # Nothing but identity was offered; and unpacking would be a way round the limit.
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            raise MediaFetchFailed(param=param, problem="the host sends it compressed, which was not asked for")
        if headers.get(b"content-type", b"").lower().startswith(WEB_PAGES):
            raise MediaFetchFailed(param=param, problem="the host sends a web page")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._rules.max_bytes:
            raise self._too_large(f"has {int(length)} bytes", param)

    async def _read_body(self, response: httpcore.Response, param: str) -> bytes:
        parts, num_bytes = [], 0
        async for part in response.aiter_stream():
            num_bytes += len(part)
            if num_bytes > self._rules.max_bytes:
                raise self._too_large("does not end there", param)
            parts.append(part)
        return b"".join(parts)

    def _too_large(self, problem: str, param: str) -> MediaTooLarge:
        return MediaTooLarge(
            param=param, problem=problem, limit=f"{self._rules.max_bytes} bytes", flag="--max-media-mb"
        )


def _request_headers(url: MediaUrl, kind: MediaKind) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", url.authority.encode("ascii")),
        (b"User-Agent", f"embedway/{__version__}".encode("ascii")),
        (b"Accept", ACCEPTED[kind]),
        (b"Accept-Encoding", b"identity"),
    ]


def _follow(url: MediaUrl, redirect: Redirect, param: str) -> MediaUrl:
    """Raises MediaFetchFailed."""
    try:
        target = url.join(redirect.location)
    except InvalidUrl as error:
        raise MediaFetchFailed(param=param, problem=f"it redirects to a URL that {error}") from error
    if url.scheme == "https" and target.scheme == "http":
        raise MediaFetchFailed(param=param, problem="it redirects from https to http")
    return target


def _translated(error: BaseException, param: str) -> RequestError:
    met = (error, error.__context__)  # not the cause, which httpcore's pool strikes out
    kind, problem = next((kind, problem) for fault, kind, problem in FAULTS if any(isinstance(e, fault) for e in met))
    return kind(param=param, problem=problem)


def tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities, among them an operator's own, and certifi's, where the system has none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
