"""What LoRA adapters cost, mixed in one batch with others: python -m benchmarks.adapters

Documents on MiniLM, and on a small decoder with random weights; each document has the next adapter, in turn. Adapters
change every linear layer (all-linear) or queries and values (q, v), with random weights. The contestants take turns, in
another order each round; a ratio is the median over the rounds of the base model's time over a contestant's. CPU time
is that of all threads, which other work on the machine disturbs less. Then how long an adapter takes to be made ready,
and what its first use adds to a short query.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.checkpoints import minilm_folder
from benchmarks.decoders import SHAPES, VOCABULARY, mixed, spec_of
from benchmarks.machine import read_machine
from benchmarks.packing import batches_of, pack
from benchmarks.texts import document_lengths, texts
from embedway.config import DEFAULT_MODEL
from embedway.kernels.native_adapter import LowRank
from embedway.models.adapter_checkpoint import AdapterWeights
from embedway.models.architectures import load_model
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_family import load_bert_family
from embedway.models.checkpoint import read_spec
from embedway.models.cpu_threads import available_cores
from embedway.models.interface import EmbeddingModel, PackedBatch, PreparedAdapter

DECODER = "Qwen3-Embedding"
COUNTS = (1, 8, 32)
FIRST_USES = 32
QUERY_TOKENS = 12

Sizes = dict[str, tuple[int, int]]
"""[out, in] of linear layers, by name"""


@dataclass(frozen=True, slots=True)
class Kind:
    """How large the adapters are."""

    name: str
    rank: int
    narrow: bool = False
    """Queries and values alone"""


KINDS = (Kind("rank 8, q, v", 8, narrow=True), Kind("rank 8, all-linear", 8), Kind("rank 64, all-linear", 64))


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, what it reads, and its linear layers."""

    name: str
    model: EmbeddingModel
    batches: list[PackedBatch]
    query: list[int]
    sizes: Sizes
    narrow: tuple[str, str]
    """How the names of the layers for queries and values end"""

    def adapter(self, kind: Kind, seed: int) -> AdapterWeights:
        rng = np.random.default_rng(seed)
        modules = {
            name: LowRank(
                (rng.standard_normal((kind.rank, ins)) / ins**0.5).astype(np.float32),
                (rng.standard_normal((outs, kind.rank)) / (10 * kind.rank)).astype(np.float32),
            )
            for name, (outs, ins) in self.sizes.items()
            if not kind.narrow or name.endswith(self.narrow)
        }
        return AdapterWeights(f"{kind.name} {seed}", "", f"{seed:064x}", modules)


@dataclass(slots=True)
class Contestant:
    name: str
    batches: list[PackedBatch]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def with_adapters(batches: Sequence[PackedBatch], adapters: Sequence[PreparedAdapter]) -> list[PackedBatch]:
    """Each sequence with the next adapter; a batch names those alone that it uses."""
    mixed_batches, turn = [], 0
    for batch in batches:
        turns = (turn + np.arange(batch.num_sequences)) % len(adapters)
        used, indices = np.unique(turns, return_inverse=True)
        own = tuple(adapters[i] for i in used)
        mixed_batches.append(replace(batch, adapters=own, adapter_indices=indices.astype(np.int32)))
        turn += batch.num_sequences
    return mixed_batches


def contestants(subject: Subject) -> list[Contestant]:
    runners = [Contestant("base alone", subject.batches), Contestant("base again", subject.batches)]
    for kind in KINDS:
        adapters = [subject.model.make_adapter(subject.adapter(kind, seed)) for seed in range(max(COUNTS))]
        for count in COUNTS:
            batches = with_adapters(subject.batches, adapters[:count])
            runners.append(Contestant(f"{count} adapter{'s' * (count > 1)}, {kind.name}", batches))
    return runners


def measure(model: EmbeddingModel, runners: Sequence[Contestant], rounds: int) -> None:
    order = list(runners)
    for i in range(rounds + 1):
        random.Random(i).shuffle(order)
        for runner in order:
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in runner.batches:
                model.embed(batch)
            if i:  # the first round warms up
                runner.wall.append(time.perf_counter() - wall)
                runner.cpu.append(time.process_time() - cpu)


def print_ratios(subject: Subject, runners: Sequence[Contestant]) -> None:
    base, tokens = runners[0], sum(batch.num_tokens for batch in subject.batches)
    for runner in runners:
        wall, cpu = (
            statistics.median(a / b for a, b in zip(theirs, own, strict=True))
            for theirs, own in ((base.wall, runner.wall), (base.cpu, runner.cpu))
        )
        speed = tokens / statistics.median(runner.wall)
        print(f"| {subject.name} | {runner.name} | {speed:.0f} | {wall:.3f} | {cpu:.3f} |")


def first_uses(subject: Subject, kind: Kind) -> tuple[float, float, float]:
    """Median milliseconds: making an adapter ready, a short query that is its first, and one that is not."""
    make, first, later = [], [], []
    weights = [subject.adapter(kind, seed) for seed in range(FIRST_USES)]
    plain = pack([subject.query])
    for _ in range(10):
        subject.model.embed(plain)
    for one in weights:
        began = time.perf_counter()
        adapter = subject.model.make_adapter(one)
        make.append(time.perf_counter() - began)
        batch = with_adapters([plain], [adapter])[0]
        for taken in (first, *([later] * 5)):
            began = time.perf_counter()
            subject.model.embed(batch)
            taken.append(time.perf_counter() - began)
    return tuple(statistics.median(taken) * 1000 for taken in (make, first, later))


def minilm(path: str, dtype: str, threads: int, documents: int, batch_tokens: int, device: str) -> Subject:
    """path is `native`, or `torch` for what runs where the native library is missing; a GPU has one path."""
    spec = read_spec(minilm_folder(), name=DEFAULT_MODEL)
    config = read_encoder_config(spec)
    assert config is not None
    if path == "torch":
        model = load_bert_family(spec, config, dtype=dtype, device=device, threads=threads)
        assert model is not None
    else:
        model = load_model(spec, dtype=dtype, device=device, threads=threads)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    read = [tokenizer.encode(text.text).ids for text in islice(texts(document_lengths, "adapters"), documents)]
    hidden, wide, parts = config.shape.hidden_size, config.shape.intermediate_size, config.family.layer
    square = (parts.query, parts.key, parts.value, parts.attention)
    of_layer = {**dict.fromkeys(square, (hidden, hidden)), parts.up: (wide, hidden), parts.down: (hidden, wide)}
    sizes = {parts.layer.format(i) + name: size for i in range(config.num_layers) for name, size in of_layer.items()}
    name = f"MiniLM, {model.facts['backend']}, {model.dtype}"
    return Subject(
        name, model, batches_of(read, batch_tokens), read[0][:QUERY_TOKENS], sizes, (parts.query, parts.value)
    )


def decoder(folder: Path, threads: int, documents: int, batch_tokens: int, device: str) -> Subject:
    import torch
    from transformers import AutoConfig, AutoModel

    from embedway.models.transformers_loading import quiet_transformers

    torch.manual_seed(0)
    model_type, shape = SHAPES[DECODER]
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, max_position_embeddings=4096, **shape)
    made = AutoModel.from_config(config)
    with quiet_transformers():
        made.save_pretrained(folder)
    sizes = {
        name: (module.out_features, module.in_features)
        for name, module in made.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    model = load_model(spec_of(folder, model_type), dtype="auto", device=device, threads=threads)
    read = mixed(documents, 20, 256)
    name = f"small {DECODER}, {model.dtype}"
    return Subject(name, model, batches_of(read, batch_tokens), read[0][:QUERY_TOKENS], sizes, ("q_proj", "v_proj"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("native", "torch", "decoder"), default=["native", "decoder"])
    parser.add_argument("--dtype", default="auto", help="of MiniLM")
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="or cuda: then with more documents and tokens")
    parser.add_argument("--threads", type=int, default=available_cores())
    arguments = parser.parse_args()
    threads, documents, tokens = arguments.threads, arguments.documents, arguments.batch_tokens
    print(f"{read_machine()}, {threads} threads, batches of {tokens} tokens\n")
    with tempfile.TemporaryDirectory() as folder:
        subjects = [
            decoder(Path(folder), threads, documents, tokens, arguments.device)
            if name == "decoder"
            else minilm(name, arguments.dtype, threads, documents, tokens, arguments.device)
            for name in arguments.models
        ]
    print("| model | contestant | tokens/s | speed to base | by CPU time |")
    print("|---|---|---|---|---|")
    for subject in subjects:
        runners = contestants(subject)
        measure(subject.model, runners, arguments.rounds)
        print_ratios(subject, runners)
    print("\n| model | adapter | made ready, ms | first query, ms | later ones, ms |")
    print("|---|---|---|---|---|")
    for subject in subjects:
        for kind in KINDS:
            make, first, later = first_uses(subject, kind)
            print(f"| {subject.name} | {kind.name} | {make:.2f} | {first:.2f} | {later:.2f} |")


if __name__ == "__main__":
    main()
