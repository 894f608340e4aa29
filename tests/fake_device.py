"""FakeModel on a device of its own: batches run beside their caller, until the test lets them end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embedway.models.interface import PackedBatch
from fake_model import MEMORY_ID, FakeModel

SECONDS = 30.0


class Launch:
    """A batch on the fake device, until the test lets it end."""

    def __init__(self, embed: Callable[[], npt.NDArray[np.float32]], batch: PackedBatch) -> None:
        self.sequences = [ids.tolist() for ids in np.split(batch.token_ids, batch.cu_seqlens[1:-1])]
        self.end = threading.Event()
        self._embed = embed

    def is_done(self) -> bool:
        return self.end.is_set()

    def vectors(self) -> npt.NDArray[np.float32]:
        assert self.end.wait(SECONDS)
        return self._embed()


class Device(FakeModel):
    """Runs batches beside its caller; `launches` has them as they come, and what tests put there."""

    def __init__(self, *, ends_at_once: bool = False) -> None:
        super().__init__()
        self.launches: queue.Queue[Launch | None] = queue.Queue()
        self.ends_at_once = ends_at_once
        self.most_at_a_time = 0
        self._running: list[Launch] = []

    def launch(self, batch: PackedBatch) -> Launch:
        if MEMORY_ID in batch.token_ids:
            raise MemoryError
        launch = Launch(lambda: self.embed(batch), batch)
        self._running = [other for other in self._running if not other.end.is_set()] + [launch]
        self.most_at_a_time = max(self.most_at_a_time, len(self._running))
        if self.ends_at_once:
            launch.end.set()
        self.launches.put(launch)
        return launch

    def next_launch(self) -> Launch:
        launch = self.launches.get(timeout=SECONDS)
        assert launch is not None
        return launch
