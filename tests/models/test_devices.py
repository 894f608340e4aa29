from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from embedway.errors import InvalidSetting
from embedway.models import devices
from embedway.models.devices import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable


def fail() -> int:
    pytest.fail("torch was asked")


def not_installed() -> int:
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


@pytest.fixture
def has_gpu_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_may_have_gpu", lambda: True)


def test_auto_is_the_cpu_without_a_word_to_torch_where_no_gpu_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_may_have_gpu", lambda: False)
    monkeypatch.setattr(devices, "_num_cuda_devices", fail)
    assert resolve_device("auto") == "cpu"


@pytest.mark.usefixtures("has_gpu_files")
@pytest.mark.parametrize(("count", "device"), [(lambda: 0, "cpu"), (lambda: 2, "cuda"), (not_installed, "cpu")])
def test_auto_asks_torch_where_there_may_be_a_gpu(
    count: Callable[[], int], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_num_cuda_devices", count)
    assert resolve_device("auto") == device


def test_a_cpu_that_was_asked_for_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_num_cuda_devices", fail)
    assert resolve_device("cpu") == "cpu"


def test_a_cuda_device_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_num_cuda_devices", lambda: 2)
    assert resolve_device("cuda") == "cuda"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(InvalidSetting, match="there is no 'cuda:2': torch sees 2"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:", "cuda:-1", "cpu:0", ""])
def test_other_names_are_setting_errors(device: str) -> None:
    with pytest.raises(InvalidSetting, match="is not auto, cpu"):
        resolve_device(device)


def test_the_number_of_devices_is_torch_s() -> None:
    assert devices._num_cuda_devices() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
