"""Copies between host and device that nobody has to wait for.

A copy from or to ordinary memory waits for all that the device has been given before it; one of pinned memory goes into
the stream as a kernel does. torch keeps pinned memory for the next copies, once the stream has passed this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """The array on the device, in its own dtype; on a CPU it may share the array's memory."""
    tensor = torch.as_tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class VectorsOnTheWay:
    """Implements `interface.LaunchedBatch`: vectors float32 [n, dimension] that the device has been told to compute."""

    def __init__(self, vectors: torch.Tensor, order: npt.NDArray[np.intp]) -> None:
        """Row i of `vectors`, which may be overwritten by what is launched next, is row order[i] of the answer."""
        self._order = order
        self._copied: torch.cuda.Event | None = None
        if not vectors.is_cuda:
            self._host = vectors
            return
        self._host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        self._host.copy_(vectors, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(vectors.device))

    def is_done(self) -> bool:
        return self._copied is None or self._copied.query()

    def vectors(self) -> npt.NDArray[np.float32]:
        """float32 [n, dimension], in the order in which the sequences came."""
        if self._copied is not None:
            self._copied.synchronize()
        result = np.empty(tuple(self._host.shape), np.float32)
        result[self._order] = self._host.numpy()
        return result
