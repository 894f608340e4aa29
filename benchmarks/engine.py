"""The model alone, in this process, beside the machine's GEMMs and sentence-transformers: python -m benchmarks.engine

Contestants take turns, round by round; figures are medians. Ours gets packed batches of token ids, as in the server's
engine process; sentence-transformers gets the same texts through `encode`, and where the two are compared the time of
our tokenizing is added to ours. Larger models have random weights.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from benchmarks.checkpoints import MINILM, SHAPES, Checkpoints
from benchmarks.engine_tables import print_engine
from benchmarks.machine import read_machine
from benchmarks.packing import batches_of, blocks
from benchmarks.results import RESULTS, Engine, Run, command_line, quantile_ms, save, today
from benchmarks.roofline import measure_gemms
from benchmarks.texts import Text, document_lengths, texts, uniform_lengths
from benchmarks.vector_distance import worst_cosine
from embedway.config import Dtype
from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec
from embedway.models.cpu_threads import available_cores
from embedway.models.interface import EmbeddingModel, PackedBatch

BATCH_TOKENS = 1024
"""Of the documents' batches"""
BLOCK_TOKENS = 128
CURVE = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens of a batch; the sequences are the same in all."""
CURVE_TOKENS = 16_384
"""Of all batches of a size together"""
LATENCY_CALLS = 100
LARGE_MODEL_SHARE = {MINILM: 1.0, "bge-base": 0.25, "bge-large": 0.1}
"""Of the documents that MiniLM gets: they are that much slower."""
PEER_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Task:
    """Something that a contestant does and that is timed."""

    peer: str
    workload: str
    texts: int
    tokens: int
    calls: Sequence[Callable[[], object]]
    """One a batch"""


def run_task(task: Task, round_number: int) -> Run:
    latencies = []
    cpu, began = time.process_time(), time.perf_counter()
    for call in task.calls:
        started = time.perf_counter()
        call()
        latencies.append(time.perf_counter() - started)
    return Run(
        peer=task.peer,
        workload=task.workload,
        round=round_number,
        seconds=time.perf_counter() - began,
        texts=task.texts,
        tokens=task.tokens,
        p50_ms=quantile_ms(latencies, 0.5),
        p99_ms=quantile_ms(latencies, 0.99),
        peer_cpu_seconds=time.process_time() - cpu,
    )


def our_task(peer: str, workload: str, model: EmbeddingModel, batches: Sequence[PackedBatch]) -> Task:
    calls = [lambda batch=batch: model.embed(batch) for batch in batches]
    num_texts = sum(batch.num_sequences for batch in batches)
    return Task(peer, workload, num_texts, sum(batch.num_tokens for batch in batches), calls)


def their_task(peer: str, workload: str, model: SentenceTransformer, given: Sequence[Text]) -> Task:
    strings = [text.text for text in given]
    call = lambda: model.encode(strings, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)  # noqa: E731
    return Task(peer, workload, len(given), sum(text.num_tokens for text in given), [call])


class ModelBench:
    """One model shape: its contestants, its texts, its tasks."""

    def __init__(self, name: str, folder: Path, dtypes: Sequence[str], num_texts: int) -> None:
        self.name = name
        self.documents = list(itertools.islice(texts(document_lengths, "documents"), num_texts))
        self.uniform = list(itertools.islice(texts(uniform_lengths, "uniform"), num_texts))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        spec = read_spec(folder, name=name)
        self.ours = {dtype: load_model(spec, dtype=dtype, device="cpu", threads=available_cores()) for dtype in dtypes}
        self.theirs = {
            dtype: SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
            for dtype in PEER_DTYPES
        }

    def tokenize(self, given: Sequence[Text]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast([text.text for text in given])]

    def tasks(self) -> Iterator[Task]:
        """In the order in which a round runs them."""
        documents = self.tokenize(self.documents)
        for dtype, model in self.ours.items():
            yield our_task(our_name(dtype), f"{self.name} documents", model, batches_of(documents, BATCH_TOKENS))
        for dtype, model in self.theirs.items():
            yield their_task(their_name(dtype), f"{self.name} documents", model, self.documents)
        yield Task(
            "tokenizing",
            f"{self.name} documents",
            len(documents),
            sum(map(len, documents)),
            [lambda: self.tokenize(self.documents)],
        )
        if self.name == MINILM:
            yield from self.small_model_tasks()

    def small_model_tasks(self) -> Iterator[Task]:
        """What batch size, lengths and a single query do, shown on MiniLM."""
        uniform = batches_of(self.tokenize(self.uniform), BATCH_TOKENS)
        ids = list(itertools.chain.from_iterable(self.tokenize(self.documents)))
        sequences = blocks(ids[:CURVE_TOKENS], BLOCK_TOKENS)
        for dtype, model in self.ours.items():
            yield our_task(our_name(dtype), f"{self.name} uniform lengths", model, uniform)
            for num_tokens in CURVE:
                workload = f"{self.name} batches of {num_tokens}"
                yield our_task(our_name(dtype), workload, model, batches_of(sequences, num_tokens))
            query = batches_of([ids[1:13]], BATCH_TOKENS)
            yield our_task(our_name(dtype), f"{self.name} 12 tokens", model, query * LATENCY_CALLS)

    def worst_cosines(self) -> Iterator[tuple[str, float]]:
        """By contestant, over all documents, to sentence-transformers in float32."""
        strings = [text.text for text in self.documents]
        reference = encode(self.theirs["float32"], strings)
        for dtype, model in self.theirs.items():
            yield their_name(dtype), worst_cosine(encode(model, strings), reference)
        batches = batches_of(self.tokenize(self.documents), BATCH_TOKENS)
        for dtype, model in self.ours.items():
            vectors = np.concatenate([model.embed(batch) for batch in batches])
            yield our_name(dtype), worst_cosine(vectors, reference)

    def flops_per_token(self) -> Iterator[tuple[str, float]]:
        """By workload: attention's share depends on the lengths."""
        shape = SHAPES[self.name]
        for workload, given in (("documents", self.documents), ("uniform lengths", self.uniform)):
            lengths = np.array([text.num_tokens for text in given], dtype=np.float64)
            yield f"{self.name} {workload}", shape.flops_per_token(float((lengths**2).sum() / lengths.sum()))


def our_name(dtype: str) -> str:
    return f"embedway {dtype}"


def their_name(dtype: str) -> str:
    return f"sentence-transformers {dtype}"


def encode(model: SentenceTransformer, strings: list[str]) -> npt.NDArray[np.float32]:
    vectors = model.encode(strings, convert_to_tensor=True, show_progress_bar=False)
    assert isinstance(vectors, torch.Tensor)
    return vectors.float().numpy()


def bench_model(result: Engine, bench: ModelBench, rounds: int) -> None:
    """All rounds of a model; each begins with the machine's GEMMs."""
    result.flops_per_token |= dict(bench.flops_per_token())
    result.dtypes |= {f"{our_name(dtype)} {bench.name}": model.dtype for dtype, model in bench.ours.items()}
    if bench.name == MINILM:
        result.worst_cosine |= dict(bench.worst_cosines())
    tasks = list(bench.tasks())
    for task in tasks:
        task.calls[0]()
    for i in range(rounds):
        print(f"{bench.name}, round {i + 1}", file=sys.stderr, flush=True)
        for dtype in dict.fromkeys([*PEER_DTYPES, *(model.dtype for model in bench.ours.values())]):
            result.gemms.extend(measure_gemms(bench.name, dtype))
        result.runs.extend(run_task(task, i) for task in tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=[MINILM])
    parser.add_argument("--dtype", nargs="+", choices=get_args(Dtype), default=["auto", "float32"])
    parser.add_argument("--texts", type=int, default=256, help="documents for MiniLM; larger models get fewer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "engine.json")
    arguments = parser.parse_args()
    result = Engine(
        machine=read_machine(),
        date=today(),
        command=command_line("benchmarks.engine"),
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        for name in arguments.models:
            num_texts = max(8, int(arguments.texts * LARGE_MODEL_SHARE[name]))
            bench = ModelBench(name, checkpoints.folder_of(name), arguments.dtype, num_texts)
            bench_model(result, bench, arguments.rounds)
            save(result, arguments.output)
    print_engine(result)
    print(f"\nStored in {os.path.relpath(arguments.output)}; all tables and plots: python -m benchmarks.report")


if __name__ == "__main__":
    main()
