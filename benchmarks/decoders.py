"""What padding costs a decoder, packed batches beside transformers' padded ones: python -m benchmarks.decoders

Random weights in small models of the shapes of Qwen3-Embedding and e5-mistral (grouped heads, gated MLP, last-token
pooling), float32 on this CPU. The padded contestants run the same transformers model with its own SDPA attention, in
batches of 16: as the texts come, and sorted by length, which needs all texts beforehand.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from benchmarks.machine import read_machine
from embedway.model_spec import ModelSpec
from embedway.models.architectures import load_model
from embedway.models.cpu_threads import available_cores
from embedway.models.interface import EmbeddingModel, PackedBatch

PADDED_BATCH = 16
PACKED_TOKENS = 1024
VOCABULARY = 8192
HIDDEN_SIZE = 512
LAYERS = {"hidden_size": HIDDEN_SIZE, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 4}
SHAPES: dict[str, tuple[str, dict[str, int | None]]] = {
    "Qwen3-Embedding": ("qwen3", {**LAYERS, "head_dim": 64, "intermediate_size": 1536}),
    "e5-mistral": ("mistral", {**LAYERS, "head_dim": 64, "intermediate_size": 1792, "sliding_window": None}),
}

Vectors = npt.NDArray[np.float32]
Sequences = list[list[int]]


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    embed: Callable[[Sequences], Vectors]


def mixed(count: int, shortest: int, longest: int) -> Sequences:
    """Lengths spread evenly over the logarithm: many short texts, few long ones."""
    rng = random.Random(0)
    return [random_ids(rng, round(np.exp(rng.uniform(np.log(shortest), np.log(longest))).item())) for _ in range(count)]


def uniform(like: Sequences) -> Sequences:
    """As many texts, of one length, of the same number of tokens or a few less."""
    rng = random.Random(1)
    return [random_ids(rng, sum(map(len, like)) // len(like)) for _ in like]


def random_ids(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(5, VOCABULARY) for _ in range(length)]


def embed_packed(model: EmbeddingModel, sequences: Sequences) -> Vectors:
    """In order, as many as fit into PACKED_TOKENS together."""
    vectors, group = [], [sequences[0]]
    for sequence in [*sequences[1:], None]:
        if sequence is None or sum(map(len, group)) + len(sequence) > PACKED_TOKENS:
            cu_seqlens = np.cumsum([0, *map(len, group)], dtype=np.int32)
            batch = PackedBatch(np.concatenate(group).astype(np.int32), cu_seqlens, np.zeros(len(group), np.int32))
            vectors.append(model.embed(batch))
            group = []
        if sequence is not None:
            group.append(sequence)
    return np.concatenate(vectors)


@torch.inference_mode()
def embed_padded(model: PreTrainedModel, sequences: Sequences, *, by_length: bool) -> Vectors:
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i])) if by_length else range(len(sequences))
    vectors = np.empty((len(sequences), HIDDEN_SIZE), np.float32)
    for start in range(0, len(order), PADDED_BATCH):
        chosen = [order[i] for i in range(start, min(start + PADDED_BATCH, len(order)))]
        lengths = torch.tensor([len(sequences[i]) for i in chosen])
        ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long)
        for row, i in enumerate(chosen):
            ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        states = model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        vectors[chosen] = states[torch.arange(len(chosen)), lengths - 1].numpy()
    return vectors


def contestants(model_type: str, shape: dict[str, int | None], folder: Path, threads: int) -> list[Contestant]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, max_position_embeddings=4096, **shape)
    padded = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    padded.save_pretrained(folder)
    packed = load_model(spec_of(folder, model_type), dtype="float32", device="cpu", threads=threads)
    return [
        Contestant("padded, as they come", lambda texts: embed_padded(padded, texts, by_length=False)),
        Contestant("padded, sorted by length", lambda texts: embed_padded(padded, texts, by_length=True)),
        Contestant(f"Embedway ({packed.facts['backend']})", lambda texts: embed_packed(packed, texts)),
    ]


def spec_of(folder: Path, model_type: str) -> ModelSpec:
    return ModelSpec(
        name=model_type,
        folder=str(folder),
        tokenizer_folder=str(folder),
        revision=None,
        model_type=model_type,
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        max_length=4096,
        pooling=("lasttoken",),
        include_prompt=True,
        dense=(),
        dimension=HIDDEN_SIZE,
        normalize=True,
        matryoshka_dimensions=(),
        truncate_dim=None,
        prompts={},
        default_prompt_name=None,
        lowercase=False,
    )


def measure(runners: list[Contestant], sequences: Sequences, rounds: int) -> list[float]:
    """Median seconds of each; they take turns, so that a busy moment hits all."""
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for runner, taken in zip(runners, seconds, strict=True):
            start = time.perf_counter()
            runner.embed(sequences)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def worst_cosine(a: Vectors, b: Vectors) -> float:
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    arguments = parser.parse_args()
    print(read_machine())
    print("| shape | lengths | contestant | tokens/s | ratio | worst cosine to padded |")
    print("|---|---|---|---|---|---|")
    various = mixed(arguments.texts, 12, 512)
    for name, (model_type, shape) in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            runners = contestants(model_type, shape, Path(folder), arguments.threads)
            for kind, sequences in (("mixed", various), ("uniform", uniform(various))):
                vectors = [runner.embed(sequences) for runner in runners]  # the first call warms up
                seconds = measure(runners, sequences, arguments.rounds)
                for runner, own, taken in zip(runners, vectors, seconds, strict=True):
                    speed = sum(map(len, sequences)) / taken
                    cosine = worst_cosine(own, vectors[0])
                    print(
                        f"| {name} | {kind} | {runner.name} | {speed:.0f} | {seconds[0] / taken:.2f} | {cosine:.7f} |"
                    )


if __name__ == "__main__":
    main()
