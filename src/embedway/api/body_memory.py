"""How much memory the large bodies of one API process may take together: who comes too late is refused, not kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from embedway.errors import ServerOverloaded

RETRY_AFTER_SECONDS = 1


class BodyMemory:
    """Bytes that the requests in progress have brought. Belongs to one event loop."""

    def __init__(self, limit: int, on_refusal: Callable[[], object]) -> None:
        self.limit = limit
        self._on_refusal = on_refusal
        self.held = 0

    def check(self, num_bytes: int) -> None:
        """Raise ServerOverloaded where there is no room for so many more; a body alone always has it."""
        if self.held and self.held + num_bytes > self.limit:
            self._on_refusal()
            problem = "the bodies of the requests before it have all the memory that they may (--body-memory-mb)"
            raise ServerOverloaded(problem=problem, seconds=RETRY_AFTER_SECONDS)


@dataclass(slots=True, eq=False)
class BodyLease:
    """A request's part of the memory, as a context manager: at its end, it is given back."""

    memory: BodyMemory
    num_bytes: int = 0

    def grow(self, num_bytes: int) -> None:
        """So many bytes more have come. Raises ServerOverloaded, and then holds no more than before."""
        self.memory.check(num_bytes)
        self.num_bytes += num_bytes
        self.memory.held += num_bytes

    def __enter__(self) -> BodyLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.memory.held -= self.num_bytes
