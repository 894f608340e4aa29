"""The engine's loop and its client over a real socket, with the fake model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from embedway.engine import wire
from embedway.engine.client import EmbedResult, EngineClient
from embedway.engine.dealer import Dealer
from embedway.engine.loop import Engine, EngineIdentity, GuardedQueue, queued_request
from embedway.engine.scheduler import Scheduler
from embedway.errors import EngineNotReady, ItemFailed, NonFiniteVector
from embedway.models.interface import EmbeddingModel, PackedBatch
from embedway.packed_sequences import PackedSequences
from fake_model import NAN_ID, POISON_ID, FakeModel, fake_vector


class GatedModel(FakeModel):
    """Waits in every batch until the test opens the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.gate = threading.Event()

    def embed(self, batch: PackedBatch) -> np.ndarray:
        self.has_begun.set()
        assert self.gate.wait(30)
        return super().embed(batch)


class RunningEngine:
    def __init__(self, model: EmbeddingModel, address: str, max_batch_tokens: int = 64) -> None:
        self._model = model
        identity = EngineIdentity(model, threads=1, load_seconds=0.0)
        self._engine = Engine(identity, address=address, max_batch_tokens=max_batch_tokens)
        self._thread = threading.Thread(target=self._engine.run)
        self._thread.start()

    def stop(self) -> None:
        """End it; what waits in its queue is dropped, as when the process dies."""
        self._engine.stop()
        if isinstance(self._model, GatedModel):
            self._model.gate.set()
        self._thread.join()


StartEngine = Callable[..., RunningEngine]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/engine.sock"


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    running: list[RunningEngine] = []

    def start(model: EmbeddingModel, address: str) -> RunningEngine:
        running.append(RunningEngine(model, address))
        return running[-1]

    yield start
    for engine in running:
        engine.stop()


@pytest.fixture
async def client(address: str) -> AsyncIterator[EngineClient]:
    async with EngineClient([address]) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 30)


def packed(*sequences: list[int], pool_start: int = 0) -> PackedSequences:
    return PackedSequences.of([np.asarray(ids, dtype=np.int32) for ids in sequences], pool_start=pool_start)


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
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    blocker = asyncio.create_task(client.embed(packed([9])))
    await until(model.has_begun.is_set)
    good = asyncio.create_task(client.embed(packed([1], [2])))
    bad = asyncio.create_task(client.embed(packed([3], [POISON_ID])))
    nan = client.submit(packed([NAN_ID]), param=lambda i: f"text[{i}]")
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


async def test_a_cancelled_request_leaves_the_queue(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    running = asyncio.create_task(client.embed(packed([1])))
    await until(model.has_begun.is_set)
    abandoned = asyncio.create_task(client.embed(packed([2])))
    await until(lambda: queued(client) == 1)
    abandoned.cancel()
    await until(lambda: queued(client) == 0)
    model.gate.set()
    await running
    assert [batch.token_ids.tolist() for batch in model.batches] == [[1]]


async def test_requests_that_come_together_travel_in_one_message(
    client: EngineClient, address: str, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    sent: list[wire.ToEngine] = []
    really_send = Dealer.send

    def send(dealer: Dealer, frame: bytes) -> bool:
        sent.append(wire.decode_to_engine(frame))
        return really_send(dealer, frame)

    monkeypatch.setattr(Dealer, "send", send)
    abandoned, *kept = [client.submit(packed([i, i])) for i in range(1, 5)]
    abandoned.cancel()
    results = await asyncio.gather(*kept)
    [message] = [message for message in sent if isinstance(message, wire.Requests)]
    assert len(message.requests) == 3  # nobody waits for the first
    for i, result in enumerate(results, 2):
        np.testing.assert_array_equal(result.vectors, [fake_vector([i, i])])


def test_priority_reaches_the_queue() -> None:
    arrays = [np.array([1, 2], "<i4").tobytes(), np.array([0, 2], "<i4").tobytes()]
    request = queued_request(b"client", wire.Embed(7, -3, 1, *arrays))
    assert (request.key, request.priority, request.pool_start) == ((b"client", 7), -3, 1)
    assert request.token_ids.tolist() == [1, 2]


async def test_an_engine_whose_socket_cannot_be_bound_ends_and_does_not_linger(tmp_path: Path) -> None:
    engine = Engine(
        EngineIdentity(FakeModel(), threads=1, load_seconds=0.0),
        address=f"ipc://{tmp_path}/no/such",
        max_batch_tokens=8,
    )
    with pytest.raises(zmq.ZMQError):
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
    addresses = [f"ipc://{tmp_path}/{i}.sock" for i in range(2)]
    models = [FakeModel(), FakeModel()]
    for model, address in zip(models, addresses, strict=True):
        start_engine(model, address)
    async with EngineClient(addresses) as client:
        await until(lambda: None not in client.statuses())
        await asyncio.gather(*(client.embed(packed([i, i])) for i in range(1, 41)))
    assert sum(batch.num_sequences for model in models for batch in model.batches) == 40
    assert all(model.batches for model in models)


async def test_a_batch_s_answers_come_back_in_one_message_with_each_request_s_own_end(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    blocker = asyncio.create_task(client.embed(packed([9])))
    await until(model.has_begun.is_set)
    tasks = [asyncio.create_task(client.embed(packed([n], [n, n]))) for n in (1, 2, NAN_ID, 3)]
    await until(lambda: queued(client) == 4)
    messages: list[int] = []
    receive = client._on_message
    client._on_message = lambda replica, frames: (messages.append(len(frames)), receive(replica, frames))[1]
    model.gate.set()
    await blocker
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert messages.count(2) == 2  # the blocker's and the batch's; a status has one frame
    for n, result in zip((1, 2, NAN_ID, 3), results, strict=True):
        if n == NAN_ID:
            assert isinstance(result, NonFiniteVector)
        else:
            assert isinstance(result, EmbedResult)
            np.testing.assert_array_equal(result.vectors, [fake_vector([n]), fake_vector([n, n])])


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


def status(client: EngineClient) -> wire.Status:
    newest = client.statuses()[0]
    assert newest is not None
    return newest


def test_what_is_cancelled_in_the_same_breath_as_it_came_never_runs() -> None:
    queue = GuardedQueue(Scheduler(max_batch_tokens=64))
    arrays = [np.array([1, 2], "<i4").tobytes(), np.array([0, 2], "<i4").tobytes()]
    requests = [queued_request(b"client", wire.Embed(i, 0, 0, *arrays)) for i in (1, 2)]
    queue.change(requests, cancelled=[(b"client", 1)])
    assert [piece.request.request_id for piece in queue.take()] == [2]
