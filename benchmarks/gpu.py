"""The models on a GPU, beside sentence-transformers on the same: python -m benchmarks.gpu

For each model: texts through tokenizer and model, ours packed, theirs padded (sorted by length by
`encode`, in two batch sizes); what uneven lengths cost; small batches as CUDA graphs and launched one by one; and the
distance to float32. Contestants take turns; figures are medians. All models but MiniLM have random weights. The
server over HTTP is measured by `python -m benchmarks.serving --peers embedway`, which takes the GPU where there is one.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from benchmarks.checkpoints import DECODER_SHAPES, SHAPES, Checkpoints, write_random_decoder
from benchmarks.machine import read_machine
from benchmarks.packing import batches_of, pack
from benchmarks.texts import document_lengths, query_lengths, texts
from benchmarks.vector_distance import worst_cosine
from embedway.config import Settings
from embedway.engine.model_runner import BatchOutcome, ModelRunner
from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec
from embedway.models.cuda_graphs import CudaGraphs
from embedway.models.interface import PackedBatch
from embedway.models.text_model import TextModel

MODELS = (*SHAPES, *DECODER_SHAPES)
LENGTHS = {"documents": document_lengths, "queries": query_lengths}
NUM_TEXTS = {"documents": 4096, "queries": 16_384}
SHARES = {"minilm": 1.0, "bge-base": 0.5, "bge-large": 0.25, "qwen3-embedding-0.6b": 0.25, "e5-mistral-7b": 1 / 16}
"""Of the texts: larger models get fewer."""
NUM_COMPARED = 128
"""Documents whose vectors are compared with float32's"""
THEIR_BATCHES = (32, 256)
SMALL_BATCHES: Mapping[str, tuple[int, ...]] = {
    "1 × 12": (12,),
    "8 × 16": (16,) * 8,
    "64 × 12": (12,) * 64,
    "1 × 256": (256,),
    "8 × 128": (128,) * 8,
    "32 × 128": (128,) * 32,
}
SMALL_CALLS = 30
MAX_BATCH_TOKENS: int = Settings.model_fields["max_batch_tokens"].default

Vectors = npt.NDArray[np.float32]


class Contestant(NamedTuple):
    name: str
    run: Callable[[], object]


class GpuModel:
    """One model of ours, its texts, and sentence-transformers with the same weights."""

    def __init__(self, name: str, folder: Path, dtype: str) -> None:
        self.name, self.folder = name, folder
        self.spec = read_spec(folder, name=name)
        model = load_model(self.spec, dtype=dtype, device="cuda")
        assert isinstance(model, TextModel)
        self.model = model
        self.theirs = their_model(folder, model.dtype)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def tokenize(self, given: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(given))]

    def embed(self, ids: Sequence[Sequence[int]]) -> Vectors:
        """float32 [n, dimension]"""
        return np.concatenate([outcome.vectors for _, outcome in self.in_turn(batches_of(ids, MAX_BATCH_TOKENS))])

    def in_turn(self, batches: Iterable[PackedBatch]) -> Iterator[tuple[PackedBatch, BatchOutcome]]:
        return ModelRunner(self.model).run_in_turn(batches)

    def contestants(self, given: Sequence[str], ids: Sequence[Sequence[int]]) -> Iterator[Contestant]:
        batches = batches_of(ids, MAX_BATCH_TOKENS)
        alone = lambda: [self.model.embed(batch) for batch in batches]  # noqa: E731
        yield Contestant(f"embedway {self.model.dtype}, model alone, each batch by itself", alone)
        yield Contestant(f"embedway {self.model.dtype}, model alone", lambda: list(self.in_turn(batches)))
        yield Contestant(f"embedway {self.model.dtype}", lambda: self.embed(self.tokenize(given)))
        for size in THEIR_BATCHES:
            name = f"sentence-transformers {self.model.dtype}, batches of {size}"
            yield Contestant(name, lambda size=size: encode(self.theirs, given, size))


def their_model(folder: Path, dtype: str) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cuda", model_kwargs={"dtype": getattr(torch, dtype)})


def encode(model: SentenceTransformer, given: Sequence[str], batch_size: int) -> Vectors:
    vectors = model.encode(
        list(given), batch_size=batch_size, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
    )
    assert isinstance(vectors, torch.Tensor)
    return vectors.float().cpu().numpy()


def take_turns(contestants: Sequence[Contestant], rounds: int) -> list[float]:
    """Median seconds of each; the first round warms up."""
    seconds: list[list[float]] = [[] for _ in contestants]
    for i in range(rounds + 1):
        for contestant, taken in zip(contestants, seconds, strict=True):
            torch.cuda.synchronize()
            began = time.perf_counter()
            contestant.run()
            torch.cuda.synchronize()
            if i:
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds]


def print_texts(subject: GpuModel, rounds: int) -> None:
    print("\n| model | texts | contestant | texts/s | tokens/s | ratio |\n|---|---|---|---|---|---|")
    for kind, lengths in LENGTHS.items():
        count = int(NUM_TEXTS[kind] * SHARES[subject.name])
        given = [text.text for text in itertools.islice(texts(lengths, kind), count)]
        ids = subject.tokenize(given)
        tokens = sum(map(len, ids))
        contestants = list(subject.contestants(given, ids))
        seconds = take_turns(contestants, rounds)
        theirs = min(seconds[-len(THEIR_BATCHES) :])
        for contestant, taken in zip(contestants, seconds, strict=True):
            figures = f"{count / taken:.0f} | {tokens / taken:.0f} | {theirs / taken:.2f}"
            print(f"| {subject.name} | {kind} | {contestant.name} | {figures} |", flush=True)


def print_padding(subject: GpuModel, rounds: int) -> None:
    """Documents of mixed lengths against as many tokens in texts of one length: what uneven lengths cost each."""
    rng = np.random.default_rng(0)
    count = int(NUM_TEXTS["documents"] * SHARES[subject.name])
    mixed = [rng.integers(1000, 30_000, rng.integers(20, 257)).tolist() for _ in range(count)]
    length = sum(map(len, mixed)) // count
    uniform = [rng.integers(1000, 30_000, length).tolist() for _ in mixed]
    contestants = [
        Contestant("mixed", lambda: subject.embed(mixed)),
        Contestant("uniform", lambda: subject.embed(uniform)),
    ]
    speeds = [sum(map(len, ids)) / s for ids, s in zip((mixed, uniform), take_turns(contestants, rounds), strict=True)]
    print(f"\nMixed lengths: {speeds[0] / speeds[1]:.2f} of the tokens/s of uniform ones ({length} tokens each)")


def print_small_batches(subject: GpuModel) -> None:
    model, graphs = subject.model, subject.model.graphs
    print(f"\nCUDA graphs: {model.facts.get('cuda_graphs', 'none')}")
    print("| model | sequences × tokens | graph, ms | launched, ms |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name, lengths in SMALL_BATCHES.items():
        batch = pack([rng.integers(1000, 30_000, length).tolist() for length in lengths])
        medians = []
        for way in (graphs, CudaGraphs(())):
            model.graphs = way
            calls = [Contestant("", lambda batch=batch: model.embed(batch))]
            medians.append(take_turns(calls, SMALL_CALLS)[0] * 1000)
        model.graphs = graphs
        print(f"| {subject.name} | {name} | {medians[0]:.2f} | {medians[1]:.2f} |", flush=True)


def print_accuracy(subject: GpuModel) -> None:
    """Worst cosines to sentence-transformers in float32."""
    given = [text.text for text in itertools.islice(texts(document_lengths, "compared"), NUM_COMPARED)]
    ours, theirs = subject.embed(subject.tokenize(given)), encode(subject.theirs, given, 32)
    exact = encode(their_model(subject.folder, "float32"), given, 32)
    print(
        f"\nWorst cosine to sentence-transformers float32 over {NUM_COMPARED} documents: ours "
        f"{worst_cosine(ours, exact):.6f}, theirs in {subject.model.dtype} {worst_cosine(theirs, exact):.6f}",
        flush=True,
    )


def folder_of(name: str, checkpoints: Checkpoints, folder: Path) -> Path:
    if name in SHAPES:
        return checkpoints.folder_of(name)
    write_random_decoder(DECODER_SHAPES[name], folder / name, "cuda")
    torch.cuda.empty_cache()
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:-1])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where random checkpoints are written; the 7B's has 14 GB")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}; {read_machine()}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        checkpoints = Checkpoints(Path(folder))
        for name in arguments.models:
            began = time.perf_counter()
            place = folder_of(name, checkpoints, Path(folder))
            written = time.perf_counter()
            subject = GpuModel(name, place, arguments.dtype)
            print(f"\n### {name}: {subject.model.dtype}, {subject.model.facts}", flush=True)
            print(f"written in {written - began:.1f} s, both loaded in {time.perf_counter() - written:.1f} s")
            print_texts(subject, arguments.rounds)
            print_padding(subject, arguments.rounds)
            print_small_batches(subject)
            print_accuracy(subject)
            del subject
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
