"""A library that embeds, in a process of its own: python -m benchmarks.library_worker sentence_transformers|embedway

Reads lines of JSON (a list of texts) and answers each with the seconds it took to embed them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def sentence_transformers() -> Callable[[Sequence[str]], object]:
    from sentence_transformers import SentenceTransformer

    from embedway.models.checkpoint_location import locate

    model = SentenceTransformer(str(locate(MODEL).folder), device="cpu")
    return lambda texts: model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def embedway() -> Callable[[Sequence[str]], object]:
    from embedway import Embedder

    embedder = Embedder(MODEL)
    return lambda texts: embedder.embed(list(texts), truncate="end")


LIBRARIES = {"sentence_transformers": sentence_transformers, "embedway": embedway}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    embed = LIBRARIES[sys.argv[1]]()
    for line in sys.stdin:
        texts = json.loads(line)
        began = time.perf_counter()
        embed(texts)
        print(time.perf_counter() - began, file=answers)


if __name__ == "__main__":
    main()
