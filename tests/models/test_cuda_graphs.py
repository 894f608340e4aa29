from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.engine.model_runner import ModelRunner
from embedway.models.architectures import load_model
from embedway.models.cuda_graphs import SHORT, SHORT_TOKENS, SIZES, CudaGraphs, sample_lengths, shapes
from embedway.models.text_model import TextModel
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.model_spec import Pooling

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "lasttoken", "mean_sqrt_len_tokens")


@given(st.sampled_from(SIZES), st.integers(1, 600), st.data())
def test_there_is_room_for_short_texts_and_for_documents(size: int, max_length: int, data: st.DataObject) -> None:
    sizes = list(shapes(size, max_length))
    assert all(shape.max_length <= min(size, max_length) for shape in sizes)
    shortest = data.draw(st.sampled_from([SHORT_TOKENS, 2 * SHORT]))
    longest = min(max_length, size, SHORT if shortest == SHORT_TOKENS else 512)
    if shortest > longest:
        return
    lengths = data.draw(st.lists(st.integers(shortest, longest), min_size=1, max_size=size // shortest))
    while sum(lengths) > size:
        lengths.pop()
    if lengths:
        assert any(shape.fits(sum(lengths), len(lengths), max(lengths)) for shape in sizes)


def test_a_graph_has_no_room_for_more_than_its_sizes() -> None:
    short, long = shapes(1024, 512)
    assert short.fits(1024, 256, 64)
    assert not short.fits(1024, 257, 4)
    assert not short.fits(1025, 2, 64)
    assert not short.fits(1024, 2, 65)
    assert long.fits(1024, 64, 512)
    assert not long.fits(1024, 64, 513)


@given(st.integers(1, 9000), st.integers(1, 600))
def test_sample_sequences_have_the_tokens_wanted(num_tokens: int, max_length: int) -> None:
    lengths = sample_lengths(num_tokens, max_length)
    assert sum(lengths) == num_tokens
    assert 1 <= min(lengths) <= max(lengths) <= max_length


def test_without_graphs_nothing_runs_as_one() -> None:
    graphs = CudaGraphs(())
    assert graphs.max_tokens == 0
    assert graphs.run(packed([[7]])) is None


def on_cuda(family: str, folder: Path, pooling: Pooling = "mean", dtype: str = "float16") -> TextModel:
    tiny_checkpoint(family, folder, pooling=pooling, max_seq_length=300)
    model = load_model(tiny_spec(folder), dtype=dtype, device="cuda")
    assert isinstance(model, TextModel)
    return model


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("family", "pooling"),
    [*(("bert", pooling) for pooling in POOLINGS), ("qwen3", "lasttoken"), ("modernbert", "mean")],
)
def test_a_graph_gives_what_launching_gives(family: str, pooling: Pooling, tmp_path: Path) -> None:
    model = on_cuda(family, tmp_path, pooling)
    assert model.graphs.max_tokens >= 64
    vocab_size = 60
    # full and nearly empty ones in turn: nothing of a batch is left in a graph's rows
    for lengths in ([16], [1], [16], [3, 2, 2], [60, 4], [1] * 16, [5, 40, 1], [17, 17, 17]):
        batch = packed(random_sequences(lengths, vocab_size, seed=len(lengths)))
        with torch.inference_mode():
            as_graph = model.graphs.run(batch)
            assert as_graph is not None
            as_graph = as_graph.cpu().numpy().copy()
            launched = model._run(batch).cpu().numpy()
        np.testing.assert_allclose(as_graph, launched, atol=2e-2, rtol=0)
        assert np.isfinite(as_graph).all()


@pytest.mark.gpu
@on_gpu
def test_prompts_that_pooling_leaves_out_are_no_matter_for_graphs(tmp_path: Path) -> None:
    model = on_cuda("bert", tmp_path)
    sequences = random_sequences([9, 5], 60)
    assert model.graphs.run(packed(sequences, pool_starts=[2, 0])) is None
    left_out, whole = model.embed(packed(sequences, pool_starts=[2, 0])), model.embed(packed(sequences))
    assert np.abs(left_out[0] - whole[0]).max() > 1e-3
    np.testing.assert_allclose(left_out[1], whole[1], atol=1e-2)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_batches_launched_one_behind_the_other_give_what_each_gives_alone(family: str, tmp_path: Path) -> None:
    model = on_cuda(family, tmp_path, "lasttoken" if family == "qwen3" else "mean")
    lengths = [[16], [1], [7, 300, 9], [60, 4], [300] * 60, [1] * 16, [5, 40, 1], [299] * 60, [17, 17, 17]] * 3
    batches = [
        packed(random_sequences(own, 60, seed=i), pool_starts=[i % 2] * len(own)) for i, own in enumerate(lengths)
    ]
    alone = [way.vectors() for way in [model.launch(batch) for batch in batches]]  # this takes the memory, too
    torch.cuda._sleep(2**31)  # a second or so
    launched = [model.launch(batch) for batch in batches]
    assert not launched[0].is_done()  # nothing above waited for the device
    for way, expected in zip(launched, alone, strict=True):
        np.testing.assert_allclose(way.vectors(), expected, atol=1e-2)
        assert way.is_done()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("family", "pooling", "dtype"), [("bert", "max", "float16"), ("bert", "mean", "float32")])
def test_what_cannot_be_a_graph_is_launched(family: str, pooling: Pooling, dtype: str, tmp_path: Path) -> None:
    model = on_cuda(family, tmp_path, pooling, dtype)
    assert model.graphs.max_tokens == 0
    assert "cuda_graphs" not in model.facts
    assert np.isfinite(model.embed(packed(random_sequences([9, 5], 60)))).all()


@pytest.mark.gpu
@on_gpu
def test_a_batch_that_does_not_fit_into_memory_is_halved_and_the_model_goes_on(tmp_path: Path) -> None:
    model = on_cuda("bert", tmp_path)
    batch = packed(random_sequences([300] * 400, 60))
    torch.cuda.reset_peak_memory_stats()
    expected = model.embed(batch)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    needed = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.6 * needed) / total)
    try:
        outcome = ModelRunner(model).begin(batch).outcome()
        after = ModelRunner(model).begin(replace(batch)).outcome()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert outcome.was_halved
    assert not outcome.faults
    np.testing.assert_allclose(outcome.vectors, expected, atol=1e-2)
    np.testing.assert_array_equal(after.vectors, outcome.vectors)
