from __future__ import annotations

import logging
from pathlib import Path

import pytest

from embedway.engine.adapter_loader import AdapterLoader, AdapterOrder
from embedway.engine.wire import AdapterSource
from embedway.errors import AdapterRefused
from embedway.models.adapter_checkpoint import AdapterWeights
from embedway.models.interface import PreparedAdapter
from fake_model import TOO_LARGE, FakeAdapter, FakeModel, content_hash, read_fake_adapter, write_fake_adapter


class OutOfMemoryError(RuntimeError):
    """As torch calls what CUDA raises."""


class FailingModel(FakeModel):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        raise self._error


def loader_of(model: FakeModel) -> AdapterLoader:
    return AdapterLoader(model, read=read_fake_adapter)


def order(folder: Path, expected: str | None = None) -> AdapterOrder:
    return AdapterOrder(AdapterSource("mine", str(folder), pinned=True), expected)


def test_what_is_loaded_says_where_it_came_from_and_what_it_was(tmp_path: Path) -> None:
    loaded = loader_of(FakeModel()).load(order(write_fake_adapter(tmp_path / "a", "one")), {})
    assert (loaded.ref.name, loaded.ref.folder, loaded.ref.pinned) == ("mine", str(tmp_path / "a"), True)
    assert loaded.ref.content_hash == content_hash("one")
    assert isinstance(loaded.prepared, FakeAdapter)
    assert loaded.prepared.shift == FakeAdapter.of("one").shift


def test_the_same_content_is_not_made_ready_twice(tmp_path: Path) -> None:
    there = FakeAdapter.of("one")
    folder = write_fake_adapter(tmp_path / "a", "one")
    loader = loader_of(FailingModel(AssertionError("it was made ready")))
    assert loader.load(order(folder), {content_hash("one"): there}).prepared is there


def test_files_that_changed_since_are_refused(tmp_path: Path) -> None:
    folder = write_fake_adapter(tmp_path / "a", "two")
    with pytest.raises(AdapterRefused, match=r"'mine' .* its files have changed since it was loaded: load it again\.$"):
        loader_of(FakeModel()).load(order(folder, content_hash("one")), {})
    loader_of(FakeModel()).load(order(folder, content_hash("two")), {})


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_out_of_memory_is_refused_with_the_reason(tmp_path: Path, error: Exception) -> None:
    folder = write_fake_adapter(tmp_path / "a", "one")
    with pytest.raises(AdapterRefused, match="there is not enough memory left for it"):
        loader_of(FailingModel(error)).load(order(folder), {})


def test_memory_that_runs_out_while_the_files_are_read_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused, match="there is not enough memory left for it"):
        loader_of(FakeModel()).load(order(write_fake_adapter(tmp_path / "a", TOO_LARGE)), {})


def test_a_fault_of_ours_is_logged_and_tells_nothing_of_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_fake_adapter(tmp_path / "a", "one")
    with caplog.at_level(logging.ERROR), pytest.raises(AdapterRefused, match="the server failed on it") as refused:
        loader_of(FailingModel(RuntimeError("secret"))).load(order(folder), {})
    assert "secret" not in refused.value.message
    assert "secret" in caplog.text
