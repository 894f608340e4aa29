"""Images and videos on their way from a request to the model: with the right sequence, whatever happens around them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.engine import parts, wire
from embedway.engine.batch import pack, split
from embedway.engine.client import EngineClient
from embedway.engine.in_flight import Pending
from embedway.engine.scheduler import BatchSlice, QueuedRequest
from embedway.errors import ItemFailed
from embedway.models.interface import PackedBatch
from embedway.packed_sequences import PackedSequences
from embedway.visual import VISUAL_TOKEN, Visual
from fake_model import POISON_ID, FakeModel, fake_vector
from running_engine import GatedModel, StartEngine, packed, status, until


def visual(value: int, num_tokens: int = 2, frames: int = 1) -> Visual:
    pixels = np.full((frames, 4, 6, 3), value, np.uint8)
    pixels[-1, 0, 0] = (1, 2, 3)
    timestamps = tuple(i / 2 for i in range(frames)) if frames > 1 else ()
    return Visual("video" if frames > 1 else "image", pixels, num_tokens, timestamps)


def with_visuals(*sequences: tuple[list[int], tuple[Visual, ...]]) -> PackedSequences:
    """Each sequence's text and visuals."""
    plain = packed(*(ids + [VISUAL_TOKEN] * sum(v.num_tokens for v in own) for ids, own in sequences))
    return replace(plain, visuals={i: own for i, (_, own) in enumerate(sequences) if own})


def expected(sequences: PackedSequences) -> np.ndarray:
    parts = np.split(sequences.token_ids, sequences.cu_seqlens[1:-1])
    return np.stack([fake_vector(ids, *sequences.visuals.get(i, ())) for i, ids in enumerate(parts)])


def own_visuals(batch: PackedBatch) -> list[tuple[Visual, ...]]:
    return [batch.visuals.get(i, ()) for i in range(batch.num_sequences)]


requests = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4)
"""How many visuals each sequence of each request has"""


@given(requests, st.data())
def test_packing_and_splitting_leave_visuals_with_their_sequences(counts: list[list[int]], data: st.DataObject) -> None:
    slices, wanted = [], []
    for of_request in counts:
        own = [tuple(visual(0) for _ in range(count)) for count in of_request]
        lengths = np.array([0, *(1 + 2 * count for count in of_request)])
        request = QueuedRequest(0, np.ones(lengths.sum(), np.int32), lengths.cumsum().astype(np.int32))
        request.visuals = {i: visuals for i, visuals in enumerate(own) if visuals}
        start = data.draw(st.integers(0, len(own) - 1))
        stop = data.draw(st.integers(start + 1, len(own)))
        slices.append(BatchSlice(request, start, stop))
        wanted += own[start:stop]
    batch = pack(slices)
    assert own_visuals(batch) == wanted
    if batch.num_sequences > 1:
        left, right = split(batch, data.draw(st.integers(1, batch.num_sequences - 1)))
        assert own_visuals(left) + own_visuals(right) == wanted


async def test_pixels_times_and_order_come_through_the_socket_as_they_were(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = FakeModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    sent = with_visuals(([5], ()), ([7], (visual(9), visual(20, 6, frames=3))), ([], (visual(30),)))
    result = await client.embed(sent)
    np.testing.assert_array_equal(result.vectors, expected(sent))
    [batch] = model.batches
    image, video = batch.visuals[1]
    assert (image.kind, image.timestamps, image.num_tokens) == ("image", (), 2)
    assert (video.kind, video.timestamps, video.num_tokens) == ("video", (0.0, 0.5, 1.0), 6)
    np.testing.assert_array_equal(video.pixels, sent.visuals[1][1].pixels)
    assert set(batch.visuals) == {1, 2}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 400))
def test_parts_are_the_request_again_and_small(counts: list[int], part_bytes: int) -> None:
    whole = with_visuals(*(([i], tuple(visual(i) for _ in range(count))) for i, count in enumerate(counts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_BYTES", part_bytes)
        made = list(parts.parts_of(whole) or [whole])
    assert sum(part.num_sequences for part in made) == whole.num_sequences
    np.testing.assert_array_equal(np.concatenate([expected(part) for part in made]), expected(whole))
    for part in made:
        sizes = [sum(v.num_bytes for v in own) for own in part.visuals.values()]
        assert sum(sizes) <= part_bytes or len(sizes) == 1


async def test_a_request_in_parts_gets_its_vectors_in_order_and_names_the_item_at_fault(
    client: EngineClient, address: str, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 200)
    model = FakeModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    good = with_visuals(*(([i], (visual(i),) if i % 3 else ()) for i in range(1, 30)))
    result = await client.embed(good)
    np.testing.assert_array_equal(result.vectors, expected(good))
    assert len(model.batches) > 1
    bad = with_visuals(*(([POISON_ID if i == 20 else i], (visual(i),)) for i in range(30)))
    with pytest.raises(ItemFailed) as caught:
        await client.submit(bad)
    assert caught.value.param == "input[20]"
    await until(lambda: status(client).queued_requests == 0)


async def test_who_gives_up_a_request_in_parts_gives_up_all_of_them(
    client: EngineClient, address: str, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 200)
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    answer = client.submit(with_visuals(*(([i], (visual(i),)) for i in range(40))))
    await until(model.has_begun.is_set)
    answer.cancel()
    await until(lambda: status(client).queued_requests == 0)
    model.gate.set()


async def test_mixed_requests_of_all_kinds_keep_their_own(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    rng = np.random.default_rng(0)

    def some() -> PackedSequences:
        return with_visuals(
            *(
                ([1 + int(rng.integers(600))], tuple(visual(int(rng.integers(256))) for _ in range(rng.integers(3))))
                for _ in range(rng.integers(1, 9))
            )
        )

    sent = [some() for _ in range(40)]
    results = await asyncio.gather(*map(client.embed, sent))
    for sequences, result in zip(sent, results, strict=True):
        np.testing.assert_array_equal(result.vectors, expected(sequences))


async def test_a_request_that_is_sent_again_has_its_pixels_again(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    first = GatedModel()
    running = start_engine(first, address)
    await until(lambda: client.is_ready)
    sent = with_visuals(([3], (visual(77),)))
    answer = asyncio.create_task(client.embed(sent))
    waiting = asyncio.create_task(client.embed(with_visuals(([4], (visual(78),)))))
    await until(first.has_begun.is_set)
    await asyncio.to_thread(running.stop)  # the second one's batch never runs
    start_engine(FakeModel(), address)
    results = await asyncio.wait_for(asyncio.gather(answer, waiting), 30)
    np.testing.assert_array_equal(results[0].vectors, expected(sent))
    np.testing.assert_array_equal(results[1].vectors, expected(with_visuals(([4], (visual(78),)))))


async def test_the_neighbours_of_a_poison_item_keep_their_images(
    client: EngineClient, address: str, start_engine: StartEngine
) -> None:
    model = GatedModel()
    start_engine(model, address)
    await until(lambda: client.is_ready)
    tasks = [asyncio.create_task(client.embed(packed([1])))]
    await until(model.has_begun.is_set)
    good = [with_visuals(([i], (visual(10 * i),))) for i in range(1, 6)]
    poison = asyncio.create_task(client.embed(with_visuals(([POISON_ID], (visual(9),)))))
    tasks += [asyncio.create_task(client.embed(sequences)) for sequences in good]
    model.gate.set()
    results = await asyncio.gather(*tasks)
    assert (await asyncio.gather(poison, return_exceptions=True))[0].__class__.__name__ == "ItemFailed"
    for sequences, result in zip(good, results[1:], strict=True):
        np.testing.assert_array_equal(result.vectors, expected(sequences))


async def test_each_part_says_how_long_the_request_is(
    client: EngineClient, address: str, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 200)
    sent: list[wire.Embed] = []
    message = Pending.message

    def seen(pending: Pending) -> wire.Embed:
        sent.append(message(pending))
        return sent[-1]

    monkeypatch.setattr(Pending, "message", seen)
    start_engine(FakeModel(), address)
    await until(lambda: client.is_ready)
    whole = with_visuals(*(([i], (visual(i),)) for i in range(1, 20)))
    await client.embed(whole)
    await client.embed(with_visuals(([1], ())))
    assert len(sent) > 2
    assert {embed.whole_tokens for embed in sent[:-1]} == {whole.num_tokens}
    assert sent[-1].whole_tokens == 0
