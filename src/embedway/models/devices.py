"""Where a model runs, found out without torch where there is no GPU to ask about."""

from __future__ import annotations

import re
from pathlib import Path

from embedway.errors import InvalidSetting

GPU_FILES = ("nvidia[0-9]*", "dxg", "kfd")
"""In /dev: NVIDIA's, Windows' for WSL, AMD's."""


def resolve_device(device: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:<n>` → `cpu`, `cuda` or `cuda:<n>`.

    Raises InvalidSetting for anything else and for a CUDA device that is not there, ImportError where one is asked for
    and torch is not installed.
    """
    if device == "auto":
        return "cuda" if _may_have_gpu() and _num_cuda_devices_or_none() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InvalidSetting(setting="--device", problem=f"{device!r} is not auto, cpu, cuda or cuda:<n>")
    if device != "cpu":
        count = _num_cuda_devices()
        if int(device.partition(":")[2] or 0) >= count:
            problem = f"there is no {device!r}: torch sees {count} CUDA devices"
            raise InvalidSetting(setting="--device", problem=problem)
    return device


def _may_have_gpu() -> bool:
    """A look at files: importing torch to learn that there is none would take a second and 200 MB."""
    return any(next(Path("/dev").glob(pattern), None) for pattern in GPU_FILES)


def _num_cuda_devices_or_none() -> int:
    try:
        return _num_cuda_devices()
    except ImportError:
        return 0


def _num_cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def is_device_lost(error: Exception) -> bool:
    """Whether it says that the process cannot use its GPU any more: after a fault there CUDA fails every call.

    Memory that ran out is not such an error.
    """
    return type(error).__name__ == "AcceleratorError"  # torch's, by name: it may not be installed
