from __future__ import annotations

import asyncio

from embedway.api.joined_writes import JoinedWrites


class Recorder(asyncio.Transport):
    """What a transport is told, in order."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.calls: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def get_write_buffer_size(self) -> int:
        return 0


async def test_what_one_turn_writes_is_one_write_and_in_order() -> None:
    recorder = Recorder()
    joined = JoinedWrites(recorder, asyncio.get_running_loop(), timeout=60)
    joined.write(b"head ")
    joined.write(b"body")
    assert recorder.calls == []
    await asyncio.sleep(0)
    joined.write(b"next")
    await asyncio.sleep(0)
    assert recorder.calls == [b"head body", b"next"]


async def test_nothing_is_lost_where_it_is_closed_in_the_same_turn() -> None:
    recorder = Recorder()
    joined = JoinedWrites(recorder, asyncio.get_running_loop(), timeout=60)
    joined.write(b"last words")
    joined.close()
    await asyncio.sleep(0)
    assert recorder.calls == [b"last words", "close"]


async def test_all_else_is_the_transport_s_own() -> None:
    joined = JoinedWrites(Recorder(), asyncio.get_running_loop(), timeout=60)
    assert joined.get_extra_info("peername") == ("127.0.0.1", 1)


async def test_a_large_answer_is_not_copied() -> None:
    recorder = Recorder()
    joined = JoinedWrites(recorder, asyncio.get_running_loop(), timeout=60)
    body = b"x" * 2**20
    joined.write(b"head ")
    joined.write(body)
    await asyncio.sleep(0)
    assert recorder.calls == [b"head ", body]
