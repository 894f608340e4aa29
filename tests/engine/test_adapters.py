"""LoRA adapters through the engine's loop and its client over a real socket, with the fake model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedway.adapter_ref import AdapterRef
from embedway.engine.client import EngineClient
from embedway.errors import AdapterRefused, EngineLost, EngineNotReady
from embedway.models.adapter_checkpoint import AdapterWeights
from fake_model import (
    REFUSED,
    FakeAdapter,
    FakeModel,
    content_hash,
    fake_vector,
    read_fake_adapter,
    write_fake_adapter,
)
from running_engine import GatedModel, StartEngine, packed, status, until


class GatedReader:
    """Reads adapters once the test opens the gate."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.gate = threading.Event()
        self.names: list[str] = []
        """Of all that were read"""

    def __call__(self, folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights:
        self.names.append(name)
        self.has_begun.set()
        assert self.gate.wait(30)
        return read_fake_adapter(folder, name=name, max_rank=max_rank)


def vector(ids: list[int], text: str | None = None) -> npt.NDArray[np.float32]:
    """What comes of a sequence with the adapter whose file says `text`; None: with the base model."""
    return fake_vector(ids) if text is None else fake_vector(ids) + FakeAdapter.of(text).shift


def unread_ref(folder: Path, text: str, name: str = "unread") -> AdapterRef:
    """That of an adapter which this engine has never loaded."""
    return AdapterRef(name, str(write_fake_adapter(folder, text)), content_hash(text))


def loaded_names(client: EngineClient, replica: int = 0) -> list[str]:
    return sorted(ref.name for ref in status(client, replica).adapters)


async def test_concurrent_requests_with_adapters_and_without_are_never_swapped(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    texts = [f"text {i}" for i in range(8)]
    refs = [await client.load_adapter(t, str(write_fake_adapter(tmp_path / t, t))) for t in texts]
    rng = np.random.default_rng(0)

    async def check() -> None:
        sequences = [rng.integers(1, 600, rng.integers(1, 20)).tolist() for _ in range(rng.integers(1, 9))]
        chosen = [None if i == 8 else i for i in rng.integers(0, 9, len(sequences)).tolist()]
        adapters = [None if i is None else refs[i] for i in chosen]
        result = await client.embed(packed(*sequences, adapters=adapters))
        expected = [vector(ids, None if i is None else texts[i]) for ids, i in zip(sequences, chosen, strict=True)]
        np.testing.assert_array_equal(result.vectors, expected)

    await asyncio.gather(*(check() for _ in range(300)))


async def test_a_load_does_not_stall_requests_that_do_not_need_it(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    reader = GatedReader()
    start_engine(FakeModel(), address, read_adapter=reader)
    await until(lambda: client.is_ready)
    load = asyncio.create_task(client.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one"))))
    await until(reader.has_begun.is_set)
    for i in range(1, 21):
        np.testing.assert_array_equal((await client.embed(packed([i]))).vectors, [vector([i])])
    assert not load.done()
    reader.gate.set()
    assert (await load).content_hash == content_hash("one")


async def test_a_request_for_an_adapter_that_is_not_there_waits_for_its_load(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    ref = unread_ref(tmp_path / "a", "one")
    result = await client.embed(packed([1, 2], [3], adapters=[ref, None]))
    np.testing.assert_array_equal(result.vectors, [vector([1, 2], "one"), vector([3])])
    await until(lambda: status(client).adapters == [ref])


async def test_requests_that_wait_for_one_adapter_have_it_loaded_once(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    reader = GatedReader()
    start_engine(FakeModel(), address, read_adapter=reader)
    await until(lambda: client.is_ready)
    ref = unread_ref(tmp_path / "a", "one")
    waiting = [client.submit(packed([i], adapters=[ref])) for i in range(1, 6)]
    await until(lambda: status(client).parked_requests == 5)
    reader.gate.set()
    for i, result in enumerate(await asyncio.gather(*waiting), 1):
        np.testing.assert_array_equal(result.vectors, [vector([i], "one")])
    assert len(reader.names) == 1


async def test_a_request_gets_all_its_adapters_even_where_they_evict_each_other(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address, max_loaded=1)
    await until(lambda: client.is_ready)
    refs = [unread_ref(tmp_path / text, text, name=text) for text in ("one", "two", "three")]
    result = await client.embed(packed([1], [2], [3], adapters=refs))
    expected = [vector([1], "one"), vector([2], "two"), vector([3], "three")]
    np.testing.assert_array_equal(result.vectors, expected)


async def test_an_evicted_adapter_comes_back_when_it_is_used(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address, max_loaded=1)
    await until(lambda: client.is_ready)
    first = await client.load_adapter("first", str(write_fake_adapter(tmp_path / "a", "one")))
    await client.load_adapter("second", str(write_fake_adapter(tmp_path / "b", "two")))
    await until(lambda: loaded_names(client) == ["second"])
    result = await client.embed(packed([7], adapters=[first]))
    np.testing.assert_array_equal(result.vectors, [vector([7], "one")])
    await until(lambda: loaded_names(client) == ["first"])


async def test_where_all_are_pinned_a_load_is_refused_and_a_request_is_served_without_keeping_its_adapter(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address, max_loaded=1)
    await until(lambda: client.is_ready)
    kept = await client.load_adapter("kept", str(write_fake_adapter(tmp_path / "a", "one")), pinned=True)
    other = unread_ref(tmp_path / "b", "two")
    with pytest.raises(AdapterRefused, match="are pinned"):
        await client.load_adapter("other", other.folder)
    np.testing.assert_array_equal((await client.embed(packed([1], adapters=[other]))).vectors, [vector([1], "two")])
    np.testing.assert_array_equal((await client.embed(packed([1], adapters=[kept]))).vectors, [vector([1], "one")])
    assert await newest_names(client) == ["kept"]


async def test_a_pinned_name_may_get_new_content_where_there_is_no_other_room(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address, max_loaded=1)
    await until(lambda: client.is_ready)
    await client.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one")), pinned=True)
    ref = await client.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "two")), pinned=True)
    np.testing.assert_array_equal((await client.embed(packed([1], adapters=[ref]))).vectors, [vector([1], "two")])


async def test_a_request_that_comes_after_the_unload_is_served_and_brings_nothing_back(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    folder = str(write_fake_adapter(tmp_path / "a", "one"))
    ref = await client.load_adapter("a", folder, pinned=True)
    await client.unload_adapter(ref)
    np.testing.assert_array_equal((await client.embed(packed([1], adapters=[ref]))).vectors, [vector([1], "one")])
    assert await newest_names(client) == []
    await client.load_adapter("a", folder)
    assert await newest_names(client) == ["a"]


async def newest_names(client: EngineClient) -> list[str]:
    """As of a status that was sent after this call."""
    batches = status(client).batches
    await client.embed(packed([1]))
    await until(lambda: status(client).batches > batches)
    return loaded_names(client)


async def test_requests_in_the_queue_finish_with_an_adapter_that_is_unloaded_meanwhile(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    folder = write_fake_adapter(tmp_path / "a", "one")
    ref = await client.load_adapter("a", str(folder))
    running = client.submit(packed([1], adapters=[ref]))
    await until(model.has_begun.is_set)
    waiting = client.submit(packed([2], adapters=[ref]))
    await until(lambda: status(client).queued_requests == 1)
    await client.unload_adapter(ref)
    write_fake_adapter(folder, "its files are gone, too")
    await until(lambda: loaded_names(client) == [])
    model.gate.set()
    np.testing.assert_array_equal((await running).vectors, [vector([1], "one")])
    np.testing.assert_array_equal((await waiting).vectors, [vector([2], "one")])


async def test_an_adapter_that_is_unloaded_while_requests_wait_for_it_serves_them_and_is_not_kept(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    reader = GatedReader()
    start_engine(FakeModel(), address, read_adapter=reader)
    await until(lambda: client.is_ready)
    ref = unread_ref(tmp_path / "a", "one")
    waiting = client.submit(packed([1], adapters=[ref]))
    await until(reader.has_begun.is_set)
    await client.unload_adapter(ref)
    reader.gate.set()
    np.testing.assert_array_equal((await waiting).vectors, [vector([1], "one")])
    other = await client.load_adapter("other", str(write_fake_adapter(tmp_path / "b", "two")))
    await until(lambda: other in status(client).adapters)
    assert loaded_names(client) == ["other"]


async def test_files_that_changed_end_the_request_and_a_new_load_serves_them(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    folder = write_fake_adapter(tmp_path / "a", "one")
    old = await client.load_adapter("a", str(folder))
    write_fake_adapter(folder, "two")
    new = await client.load_adapter("a", str(folder))
    result = await client.embed(packed([1], [1], adapters=[old, new]))  # the old one is still there
    np.testing.assert_array_equal(result.vectors, [vector([1], "one"), vector([1], "two")])
    await client.unload_adapter(old)
    with pytest.raises(AdapterRefused, match="'a' cannot be loaded: its files have changed"):
        await client.embed(packed([1], [2], adapters=[old, new]))
    np.testing.assert_array_equal((await client.embed(packed([1], adapters=[new]))).vectors, [vector([1], "two")])


async def test_a_refused_adapter_changes_nothing(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address, max_loaded=1)
    await until(lambda: client.is_ready)
    folder = write_fake_adapter(tmp_path / "a", "one")
    ref = await client.load_adapter("good", str(folder))
    for source in (str(write_fake_adapter(tmp_path / "b", REFUSED)), str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(AdapterRefused, match="'bad' cannot be loaded"):
            await client.load_adapter("bad", source)
    write_fake_adapter(folder, "it could not be loaded once more")
    np.testing.assert_array_equal((await client.embed(packed([1], adapters=[ref]))).vectors, [vector([1], "one")])
    await until(lambda: status(client).adapters == [ref])


async def test_a_cancelled_request_does_not_run_once_its_adapter_is_loaded(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    reader, model = GatedReader(), FakeModel()
    start_engine(model, address, read_adapter=reader)
    await until(lambda: client.is_ready)
    ref = unread_ref(tmp_path / "a", "one")
    abandoned = client.submit(packed([1], adapters=[ref]))
    await until(lambda: status(client).parked_requests == 1)
    abandoned.cancel()
    await until(lambda: status(client).parked_requests == 0)
    reader.gate.set()
    np.testing.assert_array_equal((await client.embed(packed([2], adapters=[ref]))).vectors, [vector([2], "one")])
    assert [batch.token_ids.tolist() for batch in model.batches] == [[2]]


async def test_an_engine_that_takes_over_loads_the_adapters_of_the_requests_that_it_inherits(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    first = GatedModel()
    engine = start_engine(first, address)
    await until(lambda: client.is_ready)
    ref = await client.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one")))
    running = client.submit(packed([1], adapters=[ref]))
    await until(first.has_begun.is_set)
    waiting = client.submit(packed([2], adapters=[ref]))
    await until(lambda: status(client).queued_requests == 1)
    await asyncio.to_thread(engine.stop)
    await until(lambda: not client.is_ready)
    start_engine(FakeModel(), address)
    np.testing.assert_array_equal((await running).vectors, [vector([1], "one")])
    np.testing.assert_array_equal((await waiting).vectors, [vector([2], "one")])
    await until(lambda: status(client).adapters == [ref])


async def test_200_loads_and_unloads_beside_requests_leave_nothing_behind(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    is_over = False

    async def serve() -> int:
        count = 0
        while not is_over:
            await client.embed(packed([1 + count % 600]))
            count += 1
        return count

    serving = asyncio.create_task(serve())
    for i in range(200):
        text = f"text {i}"
        ref = await client.load_adapter("a", str(write_fake_adapter(tmp_path / "a", text)))
        answer = client.submit(packed([1], adapters=[ref]))
        await client.unload_adapter(ref)
        np.testing.assert_array_equal((await answer).vectors, [vector([1], text)])
    is_over = True
    assert await serving > 0
    await until(lambda: status(client).adapters == [])


async def test_without_an_engine_nothing_can_be_loaded(client: EngineClient, tmp_path: Path) -> None:
    with pytest.raises(EngineNotReady):
        await client.load_adapter("a", str(tmp_path))


async def test_the_loss_of_the_engine_ends_the_wait_for_a_load(
    client: EngineClient, address: str, start_engine: StartEngine, tmp_path: Path
) -> None:
    reader = GatedReader()
    engine = start_engine(FakeModel(), address, read_adapter=reader)
    await until(lambda: client.is_ready)
    load = asyncio.create_task(client.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one"))))
    await until(reader.has_begun.is_set)
    await asyncio.to_thread(engine.stop)
    with pytest.raises(EngineLost):
        await load
    reader.gate.set()


class TestTwoReplicas:
    @pytest.fixture
    def addresses(self, tmp_path: Path) -> list[str]:
        return [f"{tmp_path}/{i}.sock" for i in range(2)]

    @pytest.fixture
    async def pair(self, addresses: list[str]) -> AsyncIterator[EngineClient]:
        async with EngineClient(addresses) as client:
            yield client

    async def test_a_load_reaches_both_and_so_does_an_unload(
        self, pair: EngineClient, addresses: list[str], start_engine: StartEngine, tmp_path: Path
    ) -> None:
        for address in addresses:
            start_engine(FakeModel(), address)
        await until(lambda: None not in pair.statuses())
        ref = await pair.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one")))
        await until(lambda: all(status(pair, i).adapters == [ref] for i in range(2)))
        await pair.unload_adapter(ref)
        await until(lambda: all(status(pair, i).adapters == [] for i in range(2)))

    async def test_where_one_refuses_the_other_lets_go_again(
        self, pair: EngineClient, addresses: list[str], start_engine: StartEngine, tmp_path: Path
    ) -> None:
        def refuse_two(folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights:
            weights = read_fake_adapter(folder, name=name, max_rank=max_rank)
            if weights.content_hash == content_hash("two"):
                raise MemoryError
            return weights

        start_engine(FakeModel(), addresses[0])
        start_engine(FakeModel(), addresses[1], read_adapter=refuse_two)
        await until(lambda: None not in pair.statuses())
        ref = await pair.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one")))
        with pytest.raises(AdapterRefused, match="not enough memory"):
            await pair.load_adapter("b", str(write_fake_adapter(tmp_path / "b", "two")))
        await until(lambda: all(status(pair, i).adapters == [ref] for i in range(2)))

    async def test_what_was_loaded_before_a_refusal_stays(
        self, pair: EngineClient, addresses: list[str], start_engine: StartEngine, tmp_path: Path
    ) -> None:
        readable = threading.Event()
        readable.set()

        def read_while_readable(folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights:
            if not readable.is_set():
                raise MemoryError
            return read_fake_adapter(folder, name=name, max_rank=max_rank)

        start_engine(FakeModel(), addresses[0])
        start_engine(FakeModel(), addresses[1], read_adapter=read_while_readable)
        await until(lambda: None not in pair.statuses())
        folder = write_fake_adapter(tmp_path / "a", "one")
        ref = await pair.load_adapter("a", str(folder))
        readable.clear()
        with pytest.raises(AdapterRefused):
            await pair.load_adapter("a", str(folder))
        await until(lambda: all(status(pair, i).adapters == [ref] for i in range(2)))

    async def test_replicas_that_read_different_files_both_let_go(
        self, pair: EngineClient, addresses: list[str], start_engine: StartEngine, tmp_path: Path
    ) -> None:
        def read_elsewhere(folder: Path, *, name: str, max_rank: int | None) -> AdapterWeights:
            del folder
            return read_fake_adapter(other, name=name, max_rank=max_rank)

        other = write_fake_adapter(tmp_path / "b", "two")
        start_engine(FakeModel(), addresses[0])
        start_engine(FakeModel(), addresses[1], read_adapter=read_elsewhere)
        await until(lambda: None not in pair.statuses())
        with pytest.raises(AdapterRefused, match="its files changed while they were read"):
            await pair.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one")))
        await until(lambda: all(status(pair, i).adapters == [] for i in range(2)))

    async def test_a_replica_that_dies_while_it_loads_is_no_error(
        self, pair: EngineClient, addresses: list[str], start_engine: StartEngine, tmp_path: Path
    ) -> None:
        reader = GatedReader()
        start_engine(FakeModel(), addresses[0])
        dying = start_engine(FakeModel(), addresses[1], read_adapter=reader)
        await until(lambda: None not in pair.statuses())
        load = asyncio.create_task(pair.load_adapter("a", str(write_fake_adapter(tmp_path / "a", "one"))))
        await until(reader.has_begun.is_set)
        await asyncio.to_thread(dying.stop)
        ref = await load
        reader.gate.set()
        np.testing.assert_array_equal((await pair.embed(packed([1], adapters=[ref]))).vectors, [vector([1], "one")])
