"""A library that embeds, in a process of its own and in the library's environment: library_worker.py LIBRARY FOLDER

Imports nothing of this repository but what the library itself needs. Says `ready` once it has embedded a text; then
each line of JSON on stdin has one answer: {"texts": […]} its vectors, {"requests": [[text, …], …], "seconds": …} the
seconds of all and of each, until the time is over.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]


def sentence_transformers(folder: str, dtype: str) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    return lambda texts: (
        model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True)
        .float()
        .numpy()
    )


def openvino(folder: str) -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", backend="openvino", model_kwargs={"export": True})
    return lambda texts: model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def embedway(folder: str) -> Embed:
    from embedway import Embedder

    embedder = Embedder(folder)
    return lambda texts: embedder.embed(list(texts))


LIBRARIES: dict[str, Callable[[str], Embed]] = {
    "sentence-transformers": lambda folder: sentence_transformers(folder, "float32"),
    "sentence-transformers-bfloat16": lambda folder: sentence_transformers(folder, "bfloat16"),
    "openvino": openvino,
    "embedway": embedway,
}


def run(embed: Embed, requests: Sequence[Sequence[str]], seconds: float) -> dict[str, object]:
    latencies = []
    began = time.perf_counter()
    for texts in requests:
        started = time.perf_counter()
        if started - began > seconds:
            break
        embed(texts)
        latencies.append(time.perf_counter() - started)
    return {"seconds": time.perf_counter() - began, "latencies": latencies}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    embed = LIBRARIES[sys.argv[1]](sys.argv[2])
    embed(["hello"])
    print("ready", file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = embed(asked["texts"]).tolist() if "texts" in asked else run(embed, **asked)
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
