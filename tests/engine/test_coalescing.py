"""Equal sequences are computed once; every request gets its own vectors, once, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embedway.engine import wire
from embedway.engine.batch import pack
from embedway.engine.client import EngineClient, Terms
from embedway.engine.coalescing import Coalescing, SharedBatch
from embedway.engine.engine_request import EngineRequest, answers
from embedway.engine.model_runner import ModelRunner
from embedway.engine.scheduler import Scheduler
from embedway.engine.vector_cache import ENTRY_BYTES, VectorCache
from embedway.errors import EngineNotReady, ItemFailed, NonFiniteVector
from fake_model import DIMENSION, NAN_ID, POISON_ID, FakeAdapter, FakeModel, fake_vector, write_fake_adapter
from running_engine import GatedModel, StartEngine, busy_engine, packed, status, to_engine, until

CACHE_BYTES = 2**16
SEQUENCES = [[1], [2], [1, 2], [2, 1], [3, 4, 5], [1] * 5, [POISON_ID], [NAN_ID, 1]]
FAULTS = {POISON_ID: ItemFailed, NAN_ID: NonFiniteVector}


class CoalescingMachine(RuleBasedStateMachine):
    """The engine without its threads: requests come, are cancelled, and run, in any order, beside a batch that runs and
    another that was launched behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = FakeModel()
        self.runner = ModelRunner(self.model)
        self.scheduler = Scheduler[EngineRequest](max_batch_tokens=8)
        self.coalescing = Coalescing(VectorCache(3 * (ENTRY_BYTES + 4 * DIMENSION), DIMENSION))
        self.sent: dict[int, list[list[int]]] = {}
        """Those that are to be answered"""
        self.request_ids = itertools.count(1)
        self.begun: list[SharedBatch] = []
        """The one that runs, and that behind it"""

    @rule(
        sequences=st.lists(st.sampled_from(SEQUENCES), min_size=1, max_size=6),
        priority=st.integers(-1, 1),
        fresh=st.booleans(),
    )
    def arrive(self, sequences: list[list[int]], priority: int, fresh: bool) -> None:
        request_id = next(self.request_ids)
        self.sent[request_id] = sequences
        request = to_engine(request_id, sequences, priority=priority, fresh=fresh)
        if self.coalescing.answer_known(request):
            self.answer(request)
        else:
            self.scheduler.add(request)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = self.scheduler.waiting()
        if waiting:
            request = data.draw(st.sampled_from(waiting))
            self.scheduler.cancel(request.key)
            del self.sent[request.request_id]

    @precondition(lambda self: len(self.begun) < 2)
    @rule()
    def begin(self) -> None:
        running = self.begun[0] if self.begun else None
        shared = self.coalescing.share(self.scheduler.next_batch(), running)
        for request in shared.answered:
            self.answer(request)
        assert shared.num_rows == sum(piece.stop - piece.start for piece in shared.slices)
        if running is not None:
            assert running.rows.keys().isdisjoint(shared.rows)  # no two equal ones run at a time
        if shared.slices:
            self.begun.append(shared)

    @precondition(lambda self: self.begun)
    @rule()
    def finish(self) -> None:
        batch = self.begun.pop(0)
        outcome = self.runner.begin(pack(batch.slices)).outcome()
        self.coalescing.keep(batch, outcome)
        for request in batch.store(outcome, 0.0):
            self.answer(request)

    @rule()
    def flush(self) -> None:
        self.coalescing.cache.flush()

    @invariant()
    def cache_is_within_its_bounds(self) -> None:
        assert len(self.coalescing.cache) <= 3

    def answer(self, request: EngineRequest) -> None:
        assert request.num_done == request.num_sequences
        frame, array = answers([request], DIMENSION, now=0.0)
        message = wire.decode_to_client(frame)
        assert isinstance(message, wire.Answers)
        sequences = self.sent.pop(request.request_id)  # once
        faulty = [(i, fault) for i, ids in enumerate(sequences) for bad, fault in FAULTS.items() if bad in ids]
        if faulty:
            item, fault = faulty[0]
            assert message.failed == [wire.Failed(request.request_id, fault.code, item)]
        else:
            [embedded] = message.embedded
            assert (embedded.request_id, embedded.num_sequences) == (request.request_id, len(sequences))
            vectors = np.frombuffer(array, dtype=np.float32).reshape(-1, DIMENSION)
            np.testing.assert_array_equal(vectors, [fake_vector(ids) for ids in sequences])

    def teardown(self) -> None:
        for _ in range(1000):
            if len(self.begun) < 2:
                self.begin()
            if self.begun:
                self.finish()
            elif not self.scheduler.queued_requests:
                break
        assert not self.sent, "nobody waits for ever"


CoalescingMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestCoalescing = CoalescingMachine.TestCase


async def test_nothing_is_swapped_between_clients_whose_sequences_are_alike_in_a_cache_that_is_too_small(
    address: str, start_engine: StartEngine
) -> None:
    start_engine(FakeModel(), address, cache_bytes=5 * (ENTRY_BYTES + 4 * DIMENSION))
    rng = np.random.default_rng(0)
    requests = [[[int(i)] * int(i) for i in rng.integers(1, 12, rng.integers(1, 6))] for _ in range(400)]
    async with EngineClient([address]) as one, EngineClient([address]) as other:
        await until(lambda: one.is_ready and other.is_ready)

        async def ask(client: EngineClient, sequences: list[list[int]], *, patient: bool) -> None:
            answer = client.submit(packed(*sequences))
            if patient:
                np.testing.assert_array_equal((await answer).vectors, [fake_vector(ids) for ids in sequences])
            else:
                await asyncio.sleep(0)
                answer.cancel()

        for first in range(0, len(requests), 40):
            some = requests[first : first + 40]
            asked = (ask((one, other)[i % 2], sequences, patient=i % 5 > 0) for i, sequences in enumerate(some))
            await asyncio.gather(*asked)


def computed(model: FakeModel) -> list[list[int]]:
    return [ids.tolist() for batch in model.batches for ids in np.split(batch.token_ids, batch.cu_seqlens[1:-1])]


async def test_what_is_known_is_answered_while_the_model_is_busy(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = GatedModel()
    model.gate.set()
    start_engine(model, address, cache_bytes=CACHE_BYTES)
    await until(lambda: client.is_ready)
    await client.embed(packed([1, 2], [3]))
    model.gate.clear()
    model.has_begun.clear()
    blocker = asyncio.create_task(client.embed(packed([9])))
    await until(model.has_begun.is_set)
    result = await client.embed(packed([3], [1, 2], [3]))
    np.testing.assert_array_equal(result.vectors, [fake_vector(ids) for ids in ([3], [1, 2], [3])])
    partly = asyncio.create_task(client.embed(packed([1, 2], [4], [3], [4])))
    await until(lambda: status(client).queued_requests == 1)
    model.gate.set()
    await blocker
    np.testing.assert_array_equal((await partly).vectors, [fake_vector(ids) for ids in ([1, 2], [4], [3], [4])])
    assert computed(model) == [[1, 2], [3], [9], [4]]
    await until(lambda: status(client).sequences == 4)
    shown = status(client)
    assert (shown.cache_hits, shown.coalesced_sequences, shown.cached_vectors) == (5, 1, 4)
    assert shown.cache_bytes == 4 * (ENTRY_BYTES + 4 * DIMENSION)
    assert shown.tokens == 5


async def test_equal_sequences_of_many_requests_run_once_and_a_cancelled_one_takes_nothing_with_it(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model, blocker = await busy_engine(client, address, start_engine, [1], cache_bytes=CACHE_BYTES)
    first = client.submit(packed([2]))
    others = [client.submit(packed([2], [1], [2])) for _ in range(5)]
    await until(lambda: status(client).queued_requests == 6)
    first.cancel()
    await until(lambda: status(client).queued_requests == 5)
    model.gate.set()
    await blocker
    for result in await asyncio.gather(*others):
        np.testing.assert_array_equal(result.vectors, [fake_vector(ids) for ids in ([2], [1], [2])])
    assert computed(model) == [[1], [2]]


async def test_a_fault_is_told_to_each_with_its_own_index_and_is_not_kept(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model, blocker = await busy_engine(client, address, start_engine, [1], cache_bytes=CACHE_BYTES)
    one = client.submit(packed([1], [2], [NAN_ID], [NAN_ID]))
    other = client.submit(packed([NAN_ID], [2]))
    good = client.submit(packed([2]))
    await until(lambda: status(client).queued_requests == 3)
    model.gate.set()
    with pytest.raises(NonFiniteVector, match=r"input\[2\]"):
        await one
    with pytest.raises(NonFiniteVector, match=r"input\[0\]"):
        await other
    np.testing.assert_array_equal((await good).vectors, [fake_vector([2])])
    await blocker
    with pytest.raises(NonFiniteVector, match=r"input\[1\]"):
        await client.embed(packed([2], [NAN_ID]))
    assert computed(model) == [[1], [2], [NAN_ID], [NAN_ID]]


async def test_one_who_matters_more_does_not_wait_for_the_one_who_asked_first(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    """The other gets the vector that was computed for it."""
    model, blocker = await busy_engine(client, address, start_engine, [1], cache_bytes=CACHE_BYTES)
    bulk = client.submit(packed(*([i] * 30 for i in range(10, 20)), [5]), Terms(priority=-1))
    await until(lambda: status(client).queued_requests == 1)
    urgent = client.submit(packed([5]), Terms(priority=1))
    await until(lambda: status(client).queued_requests == 2)
    model.gate.set()
    await asyncio.gather(blocker, bulk, urgent)
    assert computed(model)[:2] == [[1], [5]]
    assert computed(model).count([5]) == 1
    np.testing.assert_array_equal(bulk.result().vectors[-1], fake_vector([5]))


async def test_an_adapter_of_the_same_name_with_other_content_finds_nothing_of_the_old_one(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address, cache_bytes=CACHE_BYTES)
    await until(lambda: client.is_ready)
    for text in ("old", "new", "old"):
        folder = write_fake_adapter(tmp_path / "adapter", text)
        ref = await client.load_adapter("mine", str(folder))
        sequences = packed([1, 2], [1, 2], adapters=[ref, None])
        for _ in range(2):
            result = await client.embed(sequences)
            expected = fake_vector([1, 2])
            np.testing.assert_array_equal(result.vectors, [expected + FakeAdapter.of(text).shift, expected])
    await until(
        lambda: status(client).cache_hits == 9
    )  # of 12: the base's, the old one's and the new one's first were computed


async def test_a_new_engine_knows_nothing_of_the_last_one(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    engine = start_engine(FakeModel(), address, cache_bytes=CACHE_BYTES)
    await until(lambda: client.is_ready)
    await client.embed(packed([1]))
    await asyncio.to_thread(engine.stop)
    await until(lambda: not client.is_ready)
    model = FakeModel()
    start_engine(model, address, cache_bytes=CACHE_BYTES)
    await until(lambda: client.is_ready)
    await client.embed(packed([1]))
    assert computed(model) == [[1]]


async def test_a_flush_reaches_every_replica(tmp_path: Path, start_engine: StartEngine) -> None:
    addresses = [f"{tmp_path}/{i}.sock" for i in range(2)]
    for address in addresses:
        start_engine(FakeModel(), address, cache_bytes=CACHE_BYTES)
    async with EngineClient(addresses) as client:
        with pytest.raises(EngineNotReady):
            await client.flush_cache()
        await until(lambda: None not in client.statuses())
        await asyncio.gather(*(client.embed(packed([i])) for i in range(1, 9)))
        await until(lambda: all(status(client, i).cached_vectors == 4 for i in range(2)))
        await client.flush_cache()
        await until(lambda: all(status(client, i).cached_vectors == 0 for i in range(2)))


async def test_a_fresh_request_asks_the_model(client: EngineClient, address: str, start_engine: StartEngine) -> None:
    model = FakeModel()
    start_engine(model, address, cache_bytes=CACHE_BYTES)
    await until(lambda: client.is_ready)
    for _ in range(2):
        await client.embed(packed([1], [1]), Terms(fresh=True))
    assert computed(model) == [[1]] * 4


async def test_without_a_cache_every_sequence_is_computed(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = FakeModel()
    start_engine(model, address, cache_bytes=0)
    await until(lambda: client.is_ready)
    for _ in range(2):
        await client.embed(packed([1], [1]))
    assert computed(model) == [[1]] * 4
    assert status(client).cached_vectors == 0


async def test_equal_sequences_of_a_new_request_are_computed_once(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = FakeModel()
    start_engine(model, address, cache_bytes=CACHE_BYTES)
    await until(lambda: client.is_ready)
    answer = await client.embed(packed([1], [2], [1], [1]))
    np.testing.assert_array_equal(answer.vectors, [fake_vector([i]) for i in (1, 2, 1, 1)])
    assert computed(model) == [[1], [2]]
    await until(lambda: status(client).coalesced_sequences == 2)
