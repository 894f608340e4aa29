from __future__ import annotations

import asyncio

import pytest

from embedway.engine import orphans
from embedway.engine.in_flight import EmbedResult, Pending, Terms
from embedway.engine.orphans import Orphans
from embedway.errors import EngineLost
from running_engine import packed, until


def pending(*, is_suspect: bool = False, priority: int = 0) -> Pending:
    future: asyncio.Future[EmbedResult] = asyncio.get_running_loop().create_future()
    return Pending(packed([1]), Terms(priority=priority), future, is_suspect=is_suspect)


class Dispatch:
    """Keeps what it is given, while `has_engine`."""

    def __init__(self) -> None:
        self.has_engine = False
        self.sent: list[Pending] = []

    def __call__(self, pending: Pending) -> bool:
        if self.has_engine:
            self.sent.append(pending)
        return self.has_engine


async def test_suspects_go_one_at_a_time_by_priority_and_the_others_at_once() -> None:
    dispatch = Dispatch()
    waiting = Orphans(dispatch)
    low, high = pending(is_suspect=True), pending(is_suspect=True, priority=5)
    others = [pending() for _ in range(100)]
    for one in (low, *others, high):
        waiting.take(one)
    waiting.send_next()
    assert dispatch.sent == []
    dispatch.has_engine = True
    waiting.send_next()
    assert dispatch.sent == [*others, high]
    waiting.send_next()
    assert dispatch.sent[101:] == []
    high.reject(EngineLost())
    await asyncio.sleep(0)
    assert dispatch.sent[101:] == [low]


async def test_a_suspect_that_comes_back_lets_the_next_one_go() -> None:
    dispatch = Dispatch()
    waiting = Orphans(dispatch)
    first, second = pending(is_suspect=True), pending(is_suspect=True)
    waiting.take(first)
    waiting.take(second)
    dispatch.has_engine = True
    waiting.send_next()
    waiting.take(first)  # its engine was lost before it ran
    waiting.send_next()
    assert dispatch.sent == [first, second]


async def test_those_that_nobody_waits_for_any_more_are_not_sent() -> None:
    dispatch = Dispatch()
    waiting = Orphans(dispatch)
    gone = [pending(), pending(is_suspect=True)]
    kept = [pending(), pending(is_suspect=True)]
    for one in (*gone, *kept):
        waiting.take(one)
    for one in gone:
        one.future.cancel()
    dispatch.has_engine = True
    waiting.send_next()
    assert dispatch.sent == kept


async def test_they_end_where_no_engine_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "RESCUE_SECONDS", 0.01)
    waiting = Orphans(Dispatch())
    alone = [pending(), pending(is_suspect=True)]
    for one in alone:
        waiting.take(one)
    await until(lambda: all(one.future.done() for one in alone))
    assert [type(one.future.exception()) for one in alone] == [EngineLost] * 2


async def test_patience_is_for_the_time_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the suspects before it take, one of them waits for its turn."""
    monkeypatch.setattr(orphans, "RESCUE_SECONDS", 0.01)
    dispatch = Dispatch()
    waiting = Orphans(dispatch)
    first, second = pending(is_suspect=True), pending(is_suspect=True)
    waiting.take(first)
    waiting.take(second)
    dispatch.has_engine = True
    waiting.send_next()
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, passed.set)
    await passed.wait()
    first.future.cancel()
    await until(lambda: dispatch.sent == [first, second])
    assert not second.future.done()


async def test_an_engine_that_came_begins_the_patience_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "RESCUE_SECONDS", 0.3)
    dispatch = Dispatch()
    waiting = Orphans(dispatch)
    gone, later = pending(), pending()
    waiting.take(gone)
    gone.future.cancel()
    waited = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, waited.set)
    await waited.wait()
    dispatch.has_engine = True
    waiting.send_next()
    dispatch.has_engine = False
    waiting.take(later)
    began = asyncio.get_running_loop().time()
    await until(later.future.done)
    assert asyncio.get_running_loop().time() - began > 0.25
