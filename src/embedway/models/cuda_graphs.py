"""Batches as CUDA graphs: a whole forward in one launch, where the GPU would otherwise wait for Python.

A forward of a small model is a hundred launches of microseconds each, and Python takes longer for them than the GPU. A
graph has fixed sizes, so there is one for each of some sizes, and a batch runs in the smallest that it fits into: the
rows behind its last token belong to no sequence, and the sequences behind its last one are empty. Graphs are made at
start, up to the size at which they are no faster than launching one by one; larger batches are launched as ever.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch

from embedway.models.attention import PackedLayout, packed_layout, token_positions
from embedway.models.sample_batch import sample_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.cuda import _POOL_HANDLE

    from embedway.model_spec import ModelSpec, Pooling
    from embedway.models.interface import PackedBatch

    Forward: TypeAlias = Callable[[torch.Tensor, PackedLayout], torch.Tensor]
    """(token ids int64 [total], layout) → vectors float32 [n, dimension]; pooling leaves nothing out."""

logger = logging.getLogger("embedway.models")

SIZES = (
    *(16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192),
    *(10_240, 12_288, 14_336, 16_384),
)
"""Tokens. The steps are small enough that what runs for nothing is less than what launching costs."""
SHORT = 64
"""Sequences of at most so many tokens have graphs of their own: attention launches a block for each place that a
sequence might fill, so that there must not be room for many and long ones at once."""
SHORT_TOKENS, LONG_TOKENS = 4, 16
"""A graph has room for a sequence for every so many of its tokens."""
NEEDED_GAIN = 1.1
"""How much faster a graph must be than the smallest batch that it serves is without."""
MOST_DIFFERENCE = 6e-2
"""Relative L2, of vectors in 16-bit types: rounding stays below."""
POOLINGS: frozenset[Pooling] = frozenset({"cls", "lasttoken", "mean", "mean_sqrt_len_tokens"})
"""Those that never count rows on the device"""


class GraphShape(NamedTuple):
    """What a graph has room for."""

    num_tokens: int
    num_sequences: int
    max_length: int

    def fits(self, num_tokens: int, num_sequences: int, longest: int) -> bool:
        return num_tokens <= self.num_tokens and num_sequences <= self.num_sequences and longest <= self.max_length


class Graph:
    """One captured forward with its inputs and outputs."""

    def __init__(self, forward: Forward, shape: GraphShape, stream: torch.cuda.Stream, pool: _POOL_HANDLE) -> None:
        """Graphs of one stream and pool share what memory they need while they run.

        Raises whatever `forward` does where it cannot be captured.
        """
        self.shape = shape
        device = stream.device
        # token ids, positions, cu_seqlens, in one copy
        self._inputs = torch.zeros(2 * shape.num_tokens + shape.num_sequences + 1, dtype=torch.int32, device=device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries make their handles and choose their kernels before the capture
            self._run(forward)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # an adapter may be loaded by another thread meanwhile
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._vectors = self._run(forward)

    def __call__(self, batch: PackedBatch, positions: np.ndarray) -> torch.Tensor:
        """float32 [n, dimension], on the device, for what is launched before the next call."""
        pinned = torch.empty(self._inputs.shape, dtype=torch.int32, pin_memory=True)  # the one before may be in use
        staging, room, total = pinned.numpy(), self.shape.num_tokens, batch.num_tokens
        staging[:total], staging[total:room] = batch.token_ids, 0
        staging[room : room + total], staging[room + total : 2 * room] = positions, 0
        ends = staging[2 * room :]
        ends[: len(batch.cu_seqlens)], ends[len(batch.cu_seqlens) :] = batch.cu_seqlens, total
        self._inputs.copy_(pinned, non_blocking=True)
        self._graph.replay()
        return self._vectors[: batch.num_sequences]

    def _run(self, forward: Forward) -> torch.Tensor:
        room, num_sequences, longest = self.shape
        token_ids, positions, cu_seqlens = self._inputs.split((room, room, num_sequences + 1))
        layout = PackedLayout(
            cu_seqlens=cu_seqlens,
            lengths=cu_seqlens.diff().long(),
            positions=positions.long(),
            runs=(),
            num_tokens=room,
            max_length=longest,
        )
        return forward(token_ids.long(), layout)


class CudaGraphs:
    """A model's graphs, the smallest first. One caller at a time."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self._graphs = graphs

    @classmethod
    @torch.inference_mode()
    def of(cls, forward: Forward, spec: ModelSpec, device: torch.device) -> CudaGraphs:
        """Those that pay; none where the model cannot be captured, or comes out differently."""
        if not POOLINGS.issuperset(spec.pooling):
            return cls(())
        graphs: list[Graph] = []
        stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        for size, before in zip(SIZES, (0, *SIZES), strict=False):
            smallest = sample_batch(sample_lengths(before + 1, spec.max_length), spec)
            try:
                added = [Graph(forward, shape, stream, pool) for shape in shapes(size, spec.max_length)]
                gain = gain_of(added[-1], forward, smallest, device)
            except Exception as error:  # whatever a model's forward raises that asks the device for a number
                logger.info("%s does not run as a CUDA graph: %r", spec.name, error)
                return cls(())
            if gain < NEEDED_GAIN:
                break
            graphs += added
        return cls(graphs)

    @property
    def max_tokens(self) -> int:
        """Of a batch that runs as a graph"""
        return max((graph.shape.num_tokens for graph in self._graphs), default=0)

    def run(self, batch: PackedBatch) -> torch.Tensor | None:
        """float32 [n, dimension] on the device, for what is launched before the next call; None where no graph fits."""
        if batch.num_tokens > self.max_tokens or batch.adapters or batch.pool_starts.any():
            return None
        lengths = np.diff(batch.cu_seqlens)
        needed = (batch.num_tokens, len(lengths), int(lengths.max()))
        graph = next((graph for graph in self._graphs if graph.shape.fits(*needed)), None)
        return None if graph is None else graph(batch, token_positions(batch.cu_seqlens))


def shapes(num_tokens: int, max_length: int) -> Iterator[GraphShape]:
    """Of the graphs of this many tokens, for a model that reads up to max_length."""
    longest = min(num_tokens, max_length)
    yield GraphShape(num_tokens, max(2, num_tokens // SHORT_TOKENS), min(longest, SHORT))
    if longest > SHORT:
        yield GraphShape(num_tokens, max(2, num_tokens // LONG_TOKENS), longest)


def sample_lengths(num_tokens: int, max_length: int) -> list[int]:
    """Of sequences of so many tokens together: as in documents, so that both kinds of shapes are tried."""
    longest = min(max_length, 2 * SHORT)
    whole, rest = divmod(num_tokens, longest)
    return [longest] * whole + [rest] * (rest > 0)


def gain_of(graph: Graph, forward: Forward, batch: PackedBatch, device: torch.device) -> float:
    """How many times faster the graph is for this batch. Raises ArithmeticError where it gives something else."""

    def launched() -> torch.Tensor:
        return forward(
            torch.from_numpy(batch.token_ids).to(device, torch.int64), packed_layout(batch.cu_seqlens, device)
        )

    positions = token_positions(batch.cu_seqlens)
    got, expected = graph(batch, positions).clone(), launched()
    difference = ((got - expected).norm() / expected.norm()).item()
    if not difference <= MOST_DIFFERENCE:
        raise ArithmeticError(f"its vectors differ by {difference:.2g}")
    return seconds(launched, device) / seconds(lambda: graph(batch, positions), device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call: the best of a few"""
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
