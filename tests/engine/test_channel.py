from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine.channel import LARGE_BYTES, LENGTHS, Channel, Message

MESSAGES = st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=200)), max_size=8)


def stream_of(messages: list[Message]) -> bytes:
    return b"".join(LENGTHS.pack(len(frame), len(array)) + frame + array for frame, array in messages)


@given(MESSAGES, st.lists(st.integers(1, 60), min_size=1))
def test_messages_come_whole_and_in_order_however_the_stream_is_cut(messages: list[Message], sizes: list[int]) -> None:
    received: list[Message] = []
    channel = Channel(received.extend, lambda: None)
    stream, start, i = stream_of(messages), 0, 0
    while start < len(stream):
        stop = start + sizes[i % len(sizes)]
        channel.data_received(stream[start:stop])
        start, i = stop, i + 1
    assert received == messages


@given(MESSAGES, st.lists(st.integers(0, 2 * LARGE_BYTES), max_size=3), st.integers(1, 3 * LARGE_BYTES))
def test_large_ones_come_whole_between_others(messages: list[Message], lengths: list[int], size: int) -> None:
    for i, length in enumerate(lengths):
        messages.insert(i * 2, (bytes([i]) * (length // 3), bytes(range(256)) * (length // 256)))
    received: list[Message] = []
    channel = Channel(received.extend, lambda: None)
    stream = stream_of(messages)
    size = max(size, len(stream) // 1000)
    for start in range(0, len(stream), size):
        channel.data_received(stream[start : start + size])
    assert received == messages


@given(MESSAGES)
def test_what_comes_at_once_is_handed_over_at_once(messages: list[Message]) -> None:
    calls: list[list[Message]] = []
    Channel(calls.append, lambda: None).data_received(stream_of(messages))
    assert calls == ([messages] if messages else [])


@pytest.mark.parametrize("is_read", [True, False])
async def test_there_is_room_once_the_other_end_has_taken_nearly_all_or_gone(tmp_path: Path, *, is_read: bool) -> None:
    may_go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_go_on.wait()
        if is_read:
            await reader.readexactly(LENGTHS.size + len(large))
        writer.transport.abort()

    large = bytes(2**24)
    async with await asyncio.start_unix_server(serve, tmp_path / "socket"):
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: Channel(lambda _: None, lambda: None), str(tmp_path / "socket")
        )
        await channel.room()
        channel.send(b"small")
        await channel.room()
        channel.send(large)
        room = asyncio.ensure_future(channel.room())
        done, _ = await asyncio.wait([room], timeout=0.01)
        assert not done
        may_go_on.set()
        await room
        channel.close()
