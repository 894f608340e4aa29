"""The engine's loop and its client over a real socket, with the fake model."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedway.engine import replica, wire
from embedway.engine.client import EmbedResult, EngineClient, Terms
from embedway.engine.engine_request import engine_request
from embedway.engine.guarded_queue import SPARE_EXPIRIES, GuardedQueue
from embedway.engine.in_flight import RESOLVED_AT_ONCE
from embedway.engine.loop import Engine, EngineIdentity
from embedway.engine.replica import Replica
from embedway.engine.scheduler import Scheduler
from embedway.errors import EngineNotReady, ItemFailed, NonFiniteVector
from fake_model import NAN_ID, POISON_ID, FakeModel, fake_vector
from running_engine import GatedModel, StartEngine, busy_engine, packed, status, until


async def test_each_request_gets_its_own_vectors_in_its_own_order(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    rng = np.random.default_rng(0)
    requests = [
        [rng.integers(1, 600, rng.integers(1, 40)).tolist() for _ in range(rng.integers(1, 9))] for _ in range(60)
    ]
    results = await asyncio.gather(*(client.embed(packed(*sequences)) for sequences in requests))
    for sequences, result in zip(requests, results, strict=True):
        np.testing.assert_array_equal(result.vectors, np.stack([fake_vector(ids) for ids in sequences]))


async def test_requests_that_arrive_while_the_model_works_share_the_next_batch(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    tasks = [asyncio.create_task(client.embed(packed([1, 2])))]
    await until(model.has_begun.is_set)
    tasks += [asyncio.create_task(client.embed(packed([1, 2]))) for _ in range(8)]
    await until(lambda: queued(client) == 8)
    model.gate.set()
    await asyncio.gather(*tasks)
    assert [batch.num_sequences for batch in model.batches] == [1, 8]


def queued(client: EngineClient) -> int:
    status = client.statuses()[0]
    return status.queued_requests if status else 0


async def test_a_poison_item_fails_alone_and_is_named(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model, blocker = await busy_engine(client, address, start_engine, [9])
    good = asyncio.create_task(client.embed(packed([1], [2])))
    bad = asyncio.create_task(client.embed(packed([3], [POISON_ID])))
    nan = client.submit(packed([NAN_ID]), Terms(param=lambda i: f"text[{i}]"))
    await until(lambda: queued(client) == 3)
    model.gate.set()
    await blocker
    np.testing.assert_array_equal((await good).vectors, [fake_vector([1]), fake_vector([2])])
    with pytest.raises(ItemFailed, match=r"input\[1\]"):
        await bad
    with pytest.raises(NonFiniteVector, match=r"text\[0\]"):
        await nan


async def test_without_an_engine_a_request_is_refused_at_once(client: EngineClient) -> None:
    with pytest.raises(EngineNotReady):
        await client.embed(packed([1]))


async def test_a_request_whose_engine_dies_is_answered_by_the_next_one(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    first = GatedModel()
    engine = start_engine(first, address)
    await until(lambda: client.is_ready)
    running = asyncio.create_task(client.embed(packed([1, 2, 3])))
    await until(first.has_begun.is_set)
    waiting = asyncio.create_task(client.embed(packed([4])))
    await until(lambda: queued(client) == 1)
    await asyncio.to_thread(engine.stop)
    await until(lambda: not client.is_ready)
    start_engine(FakeModel(), address)
    np.testing.assert_array_equal((await waiting).vectors, [fake_vector([4])])
    np.testing.assert_array_equal((await running).vectors, [fake_vector([1, 2, 3])])


async def test_a_backlog_goes_to_the_next_engine_at_once(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    """Not one by one: whoever did not run has not ended the engine."""
    first, second = GatedModel(), GatedModel()
    engine = start_engine(first, address)
    await until(lambda: client.is_ready)
    backlog = [asyncio.create_task(client.embed(packed([i]))) for i in range(1, 301)]
    await until(lambda: queued(client) > 200)
    await asyncio.to_thread(engine.stop)
    start_engine(second, address)
    await until(lambda: queued(client) > 150)  # but for the batches of the first and the second
    second.gate.set()
    answers = await asyncio.gather(*backlog)
    np.testing.assert_array_equal([a.vectors[0] for a in answers], [fake_vector([i]) for i in range(1, 301)])


async def test_a_pause_of_its_own_is_no_silence_of_the_engine(
    client: EngineClient, address: str, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "SILENCE_SECONDS", 0.5)
    model, running = await busy_engine(client, address, start_engine, [1])
    time.sleep(1)  # noqa: ASYNC251 - what is tested, no wait for something: the process stands still, as in a frozen container
    before = client.statuses()[0]
    assert before is not None
    await until(lambda: client.statuses()[0] is not before)
    model.gate.set()
    np.testing.assert_array_equal((await running).vectors, [fake_vector([1])])
    await until(lambda: status(client).sequences > 0)
    assert status(client).sequences == 1


async def test_a_cancelled_request_leaves_the_queue(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model, running = await busy_engine(client, address, start_engine, [1])
    abandoned = asyncio.create_task(client.embed(packed([2])))
    await until(lambda: queued(client) == 1)
    abandoned.cancel()
    await until(lambda: queued(client) == 0)
    model.gate.set()
    await running
    assert [batch.token_ids.tolist() for batch in model.batches] == [[1]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[wire.ToEngine]:
    """What all replicas are told."""
    messages: list[wire.ToEngine] = []
    really_send = Replica._send

    def send(replica: Replica, message: wire.ToEngine) -> bool:
        messages.append(message)
        return really_send(replica, message)

    monkeypatch.setattr(Replica, "_send", send)
    return messages


async def test_requests_that_come_together_travel_in_one_message(
    client: EngineClient, address: str, start_engine: StartEngine, sent: list[wire.ToEngine]
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    abandoned, *kept = [client.submit(packed([i, i])) for i in range(1, 5)]
    abandoned.cancel()
    results = await asyncio.gather(*kept)
    [message] = [message for message in sent if isinstance(message, wire.Requests)]
    assert len(message.requests) == 3  # nobody waits for the first
    for i, result in enumerate(results, 2):
        np.testing.assert_array_equal(result.vectors, [fake_vector([i, i])])


async def test_large_ones_that_come_together_travel_turn_by_turn(
    client: EngineClient,
    address: str,
    start_engine: StartEngine,
    sent: list[wire.ToEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    monkeypatch.setattr(replica, "FLUSH_BYTES", 20)
    asked = [packed([i] * length) for i, length in enumerate((2, 2, 2, 9, 1, 4), start=1)]  # of 4 bytes each
    answers = [client.submit(sequences) for sequences in asked]
    await asyncio.sleep(0)
    first = [message for message in sent if isinstance(message, wire.Requests)]
    assert [len(message.requests) for message in first] == [2]
    results = await asyncio.gather(*answers)
    messages = [message for message in sent if isinstance(message, wire.Requests)]
    assert [len(message.requests) for message in messages] == [2, 1, 1, 2]
    for sequences, result in zip(asked, results, strict=True):
        np.testing.assert_array_equal(result.vectors, [fake_vector(sequences.token_ids)])


async def test_requests_given_up_together_are_told_in_one_message(
    client: EngineClient, address: str, start_engine: StartEngine, sent: list[wire.ToEngine]
) -> None:
    model, running = await busy_engine(client, address, start_engine, [9])
    given_up = [client.submit(packed([i])) for i in range(1, 5)]
    await until(lambda: queued(client) == 4)
    for answer in given_up:
        answer.cancel()
    await until(lambda: queued(client) == 0)
    [message] = [message for message in sent if isinstance(message, wire.Cancel)]
    assert len(message.request_ids) == 4
    model.gate.set()
    await running


def as_bytes(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def test_priority_reaches_the_queue() -> None:
    request = engine_request(3, wire.Embed(7, -3, 1, as_bytes(1, 2), as_bytes(0, 2)))
    assert (request.key, request.priority, request.pool_start) == ((3, 7), -3, 1)
    assert request.token_ids.tolist() == [1, 2]


async def test_an_engine_whose_socket_cannot_be_bound_ends_and_does_not_linger(tmp_path: Path) -> None:
    engine = Engine(
        EngineIdentity(FakeModel(), threads=1, load_seconds=0.0),
        address=f"{tmp_path}/no/such",
        max_batch_tokens=8,
    )
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(engine.run)


async def test_the_prompt_s_length_reaches_the_model(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = FakeModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    await client.embed(packed([1, 2, 3], [4, 5], pool_start=1))
    assert model.batches[-1].pool_starts.tolist() == [1, 1]


async def test_two_replicas_share_the_requests(tmp_path: Path, start_engine: StartEngine) -> None:
    addresses = [f"{tmp_path}/{i}.sock" for i in range(2)]
    models = [FakeModel(), FakeModel()]
    for model, address in zip(models, addresses, strict=True):
        start_engine(model, address)
    async with EngineClient(addresses) as client:
        await until(lambda: None not in client.statuses())
        await asyncio.gather(*(client.embed(packed([i, i])) for i in range(1, 41)))
    assert sum(batch.num_sequences for model in models for batch in model.batches) == 40
    assert all(model.batches for model in models)


async def test_a_batch_s_answers_come_back_in_one_message_with_each_request_s_own_end(
    client: EngineClient, address: str, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, blocker = await busy_engine(client, address, start_engine, [9])
    tasks = [asyncio.create_task(client.embed(packed([n], [n, n]))) for n in (1, 2, NAN_ID, 3)]
    await until(lambda: queued(client) == 4)
    messages: list[bool] = []
    receive = Replica._on_message

    def count_and_receive(replica: Replica, frame: bytes, array: bytes) -> None:
        messages.append(bool(array))
        receive(replica, frame, array)

    monkeypatch.setattr(Replica, "_on_message", count_and_receive)
    model.gate.set()
    await blocker
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert messages.count(True) == 2  # the blocker's and the batch's; a status has no array
    for n, result in zip((1, 2, NAN_ID, 3), results, strict=True):
        if n == NAN_ID:
            assert isinstance(result, NonFiniteVector)
        else:
            assert isinstance(result, EmbedResult)
            np.testing.assert_array_equal(result.vectors, [fake_vector([n]), fake_vector([n, n])])


async def test_a_long_batch_s_answers_are_given_out_turn_by_turn(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model, blocker = await busy_engine(client, address, start_engine, [9])
    answers = [client.submit(packed([n])) for n in range(1, 2 * RESOLVED_AT_ONCE + 2)]
    await until(lambda: queued(client) == len(answers))
    gone = RESOLVED_AT_ONCE + 3
    answers[0].add_done_callback(lambda _: answers[gone].cancel())  # whose vectors are there already
    num_done = [0]

    def count() -> None:
        num_done.append(sum(answer.done() for answer in answers))
        if num_done[-1] < len(answers):
            asyncio.get_running_loop().call_soon(count)

    count()
    model.gate.set()
    await blocker
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert RESOLVED_AT_ONCE <= max(np.diff(num_done)) <= RESOLVED_AT_ONCE + 1
    assert isinstance(results[gone], asyncio.CancelledError)
    for n, result in enumerate(results, start=1):
        if n != gone + 1:
            assert isinstance(result, EmbedResult)
            np.testing.assert_array_equal(result.vectors, [fake_vector([n])])


async def test_the_status_shows_what_batches_took_and_how_well_that_was_predicted(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    for _ in range(3):
        await client.embed(packed([1, 2], [3, 4, 5, 6]))
    await until(lambda: status(client).batches == 3)
    shown = status(client)
    assert shown.mean_batch_tokens == 6
    assert shown.batch_fixed_ms + shown.batch_ms_per_token + shown.batch_ms_per_square > 0
    assert shown.batch_time_error_p90 >= shown.batch_time_error_median > 0


async def test_a_batch_that_was_halved_teaches_nothing(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    with pytest.raises(ItemFailed):
        await client.embed(packed([POISON_ID]))
    await until(lambda: status(client).batches == 1)
    shown = status(client)
    assert shown.batch_fixed_ms + shown.batch_ms_per_token + shown.batch_ms_per_square == 0


def test_what_is_cancelled_in_the_same_breath_as_it_came_never_runs() -> None:
    queue = GuardedQueue(Scheduler(max_batch_tokens=64))
    requests = [engine_request(3, wire.Embed(i, 0, 0, as_bytes(1, 2), as_bytes(0, 2))) for i in (1, 2)]
    queue.change(requests, cancelled=[(3, 1)])
    assert [piece.request.request_id for piece in queue.take()] == [2]


async def test_what_a_client_that_has_gone_had_in_the_queue_never_runs(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = GatedModel()
    start_engine(model, address)
    async with EngineClient([address]) as gone:
        await until(lambda: client.is_ready and gone.is_ready)
        blocker = asyncio.create_task(client.embed(packed([9])))
        await until(model.has_begun.is_set)
        gone.submit(packed([1]))
        await until(lambda: queued(client) == 1)
    await until(lambda: queued(client) == 0)
    model.gate.set()
    await blocker
    assert [batch.token_ids.tolist() for batch in model.batches] == [[9]]


async def test_what_has_expired_never_runs_and_is_counted(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model, blocker = await busy_engine(client, address, start_engine, [9])
    late = client.submit(packed([1]), Terms(expires_at=time.monotonic()))
    in_time = client.submit(packed([2]), Terms(expires_at=time.monotonic() + 1000))
    await until(lambda: queued(client) == 2)
    model.gate.set()
    await asyncio.gather(blocker, in_time)
    await until(lambda: status(client).expired_requests == 1)
    assert [batch.token_ids.tolist() for batch in model.batches] == [[9], [2]]
    assert not late.done()  # its end is the caller's own
    late.cancel()


def test_deadlines_of_what_has_run_take_no_memory() -> None:
    queue = GuardedQueue(Scheduler(max_batch_tokens=64))
    for i in range(3 * SPARE_EXPIRIES):
        queue.change([engine_request(3, wire.Embed(i, 0, 0, as_bytes(1), as_bytes(0, 1), timeout_ms=1e9))], ())
        assert len(queue.take()) == 1
    assert len(queue._expiries) <= SPARE_EXPIRIES + 2


async def test_an_abort_reaches_all_other_clients_of_the_engine(address: str, start_engine: StartEngine) -> None:
    start_engine(FakeModel(), address)
    told: list[list[str | None]] = [[], [], []]
    async with (
        EngineClient([address], on_abort=told[0].append) as one,
        EngineClient([address], on_abort=told[1].append) as other,
        EngineClient([address], on_abort=told[2].append) as third,
    ):
        await until(lambda: one.is_ready and other.is_ready and third.is_ready)
        one.abort("a")
        one.abort(None)
        await until(lambda: told[1] == told[2] == ["a", None])
        await one.embed(packed([1]))  # what the engine sends after it
    assert told[0] == []


async def test_tokens_per_second_are_what_the_time_model_says_of_full_batches(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    assert client.tokens_per_second() == math.inf
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    known = msgspec.structs.replace(
        status(client), batch_fixed_ms=9.0, batch_ms_per_token=0.05, batch_ms_per_square=0.001, tokens=500, sequences=10
    )
    assert known.tokens_per_second == 10_000
