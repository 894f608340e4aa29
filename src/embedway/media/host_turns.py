"""HostTurns: how many fetches run at once, in all and of one host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class HostTurns:
    """A host's turn is waited for before the common one: those who wait for a busy host keep nobody else waiting."""

    def __init__(self, *, most: int, most_of_one_host: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_one_host = most_of_one_host
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Each lives as long as somebody has it or waits for it"""

    @asynccontextmanager
    async def take(self, host: str) -> AsyncGenerator[None, None]:
        turns = self._hosts.get(host)
        if turns is None:
            turns = self._hosts[host] = asyncio.Semaphore(self._most_of_one_host)
        async with turns, self._all:
            yield
