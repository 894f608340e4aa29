"""What became of each request of a soak: its own vector, or one clear error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import httpx
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Between two vectors of one text in batches of different lengths; those of two texts differ by 0.1 and more"""
MAY_FAIL = frozenset({"engine_not_ready", "engine_lost", "engine_crashed"})
"""What a request may end in while engines are killed"""


class Ledger:
    def __init__(self) -> None:
        self.num_asked = 0
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []

    def asked(self) -> None:
        self.num_asked += 1

    def abandoned(self) -> None:
        """By its client, which hears no more of it."""
        self.ends["abandoned"] += 1

    def answered(self, answer: httpx.Response, expected: Vectors) -> None:
        """A request that is in order."""
        if answer.status_code == 200:
            vectors = vectors_of(answer.json())
            is_right = vectors.shape == expected.shape and bool(np.allclose(vectors, expected, atol=TOLERANCE))
            self._end("right", None if is_right else "a wrong vector")
        else:
            code = code_of(answer)
            self._end(code, None if answer.status_code == 503 and code in MAY_FAIL else answer.text)

    def refused(self, answer: httpx.Response, code: str) -> None:
        """A request that is at fault."""
        got = code_of(answer)
        self._end(got, None if got == code else f"{got}, not {code}: {answer.text}")

    def changed(self, answer: httpx.Response) -> bool:
        """An operator's request that is in order; return whether it was done."""
        code = code_of(answer)
        may_be = code == "ok" or (answer.status_code == 503 and code in MAY_FAIL)
        self._end("changed" if code == "ok" else code, None if may_be else answer.text)
        return code == "ok"

    def _end(self, end: str, problem: str | None) -> None:
        self.ends[end] += 1
        if problem is not None:
            self.wrong.append(problem)


def vectors_of(body: Mapping[str, list[Mapping[str, list[float]]]]) -> Vectors:
    return np.array([item["embedding"] for item in body["data"]], dtype=np.float32)


def code_of(answer: httpx.Response) -> str:
    return "ok" if answer.status_code == 200 else answer.json()["error"]["code"]
