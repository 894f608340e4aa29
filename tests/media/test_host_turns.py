from __future__ import annotations

import asyncio

import pytest

from embedway.media.host_turns import HostTurns


class Watched:
    """Takes turns, and counts who has one."""

    def __init__(self, turns: HostTurns) -> None:
        self.turns = turns
        self.having: list[str] = []
        self.most: dict[str, int] = {}
        self.end = asyncio.Event()

    async def take(self, host: str) -> None:
        async with self.turns.take(host):
            self.having.append(host)
            self.most[host] = max(self.most.get(host, 0), self.having.count(host))
            self.most["all"] = max(self.most.get("all", 0), len(self.having))
            await self.end.wait()
            self.having.remove(host)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_busy_host_keeps_no_other_waiting() -> None:
    watched = Watched(HostTurns(most=4, most_of_one_host=3))
    tasks = [asyncio.create_task(watched.take("busy")) for _ in range(50)]
    await settle()
    tasks.append(asyncio.create_task(watched.take("other")))
    await settle()
    assert sorted(watched.having) == ["busy", "busy", "busy", "other"]
    watched.end.set()
    await asyncio.gather(*tasks)
    assert watched.most == {"busy": 3, "other": 1, "all": 4}


async def test_all_hosts_share_the_common_turns() -> None:
    watched = Watched(HostTurns(most=4, most_of_one_host=3))
    tasks = [asyncio.create_task(watched.take(f"host-{i}")) for i in range(20)]
    await settle()
    assert len(watched.having) == 4
    watched.end.set()
    await asyncio.gather(*tasks)
    assert watched.most["all"] == 4


async def test_who_gives_up_leaves_the_turn_to_others_and_nothing_behind() -> None:
    turns = HostTurns(most=2, most_of_one_host=1)
    watched = Watched(turns)
    first, waiting, last = (asyncio.create_task(watched.take("host")) for _ in range(3))
    await settle()
    waiting.cancel()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await settle()
    assert watched.having.count("host") == 2  # the first, which could not say goodbye, and the last
    watched.end.set()
    await last
    del first, waiting, last
    assert not turns._hosts
