"""MediaSources: the string that a client gave for an image or a video → its bytes."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor

from embedway.errors import MediaUnreadable
from embedway.media.checked_network import Resolver, system_resolver
from embedway.media.fetch import Fetcher, tls_context
from embedway.media.inline_data import decode_inline
from embedway.media.local_files import read_local_file
from embedway.media.rules import MediaRules
from embedway.media.source_form import Base64, LocalFile, PercentEncoded, Remote, SourceForm, read_form
from embedway.visual import KIND_IN_WORDS, MediaKind

INLINE_CHARACTERS = 2**16
"""Longer data is decoded in a thread"""
READING_THREADS = 4
LOOKUP_THREADS = 64
"""Of their own, so that slow name servers keep no files and no texts waiting; many, as a lookup cannot be given up"""


class MediaSources:
    """One a process. Made anywhere, used in one event loop, closed at the end."""

    def __init__(
        self, rules: MediaRules, *, resolve: Resolver | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`resolve` and `tls` are the system's unless given."""
        self._rules = rules
        self._readers = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="media-reader")
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="media-lookup")
        self._fetcher = Fetcher(rules, resolve or system_resolver(self._lookups), tls or tls_context())

    async def open(self, given: str, *, kind: MediaKind, param: str) -> bytes:
        """The file as it is, from 1 to `rules.max_bytes` bytes; what is in it, is for others to judge.

        Raises EmptyInput, InvalidValue, MediaNotAllowed, MediaTooLarge, MediaFetchFailed or MediaUnreadable. No
        sentence has more of `given` than a scheme, nor an address.
        """
        data = await self._read(read_form(given, param=param), kind, param)
        if not data:
            raise MediaUnreadable(param=param, kind=KIND_IN_WORDS[kind], problem="it is empty")
        return data

    async def aclose(self) -> None:
        await self._fetcher.aclose()
        for threads in (self._readers, self._lookups):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, form: SourceForm, kind: MediaKind, param: str) -> bytes:
        def read_file(path: str) -> bytes:
            return read_local_file(path, self._rules, kind=kind, param=param)

        def decode(data: Base64 | PercentEncoded) -> bytes:
            return decode_inline(data, max_bytes=self._rules.max_bytes, kind=kind, param=param)

        in_thread = asyncio.get_running_loop().run_in_executor
        match form:
            case Remote(url):
                return await self._fetcher.fetch(url, kind=kind, param=param)
            case LocalFile(path):
                return await in_thread(self._readers, read_file, path)
            case Base64() | PercentEncoded():
                is_short = len(form.text) <= INLINE_CHARACTERS
                return decode(form) if is_short else await in_thread(self._readers, decode, form)
