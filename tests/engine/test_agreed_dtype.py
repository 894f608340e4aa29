from __future__ import annotations

from pathlib import Path

from embedway.engine.agreed_dtype import load_agreed
from fake_model import FakeModel


class Loader:
    """Chooses a type where it is asked for `auto`."""

    def __init__(self, chooses: str) -> None:
        self._chooses = chooses
        self.asked: list[str] = []

    def __call__(self, dtype: str) -> FakeModel:
        self.asked.append(dtype)
        model = FakeModel()
        model.dtype = self._chooses if dtype == "auto" else dtype
        return model


def test_later_engines_compute_as_the_first_has_chosen(tmp_path: Path) -> None:
    first, later = Loader("float16"), Loader("float32")
    assert load_agreed(tmp_path / "dtype", "auto", first).dtype == "float16"
    assert load_agreed(tmp_path / "dtype", "auto", later).dtype == "float16"
    assert later.asked == ["float16"]
    assert [path.name for path in tmp_path.iterdir()] == ["dtype"]


def test_of_two_that_start_together_the_one_that_is_ready_last_loads_once_more(tmp_path: Path) -> None:
    quick, slow = Loader("float32"), Loader("bfloat16")

    def load_slowly(dtype: str) -> FakeModel:
        if not slow.asked:
            load_agreed(tmp_path / "dtype", "auto", quick)
        return slow(dtype)

    assert load_agreed(tmp_path / "dtype", "auto", load_slowly).dtype == "float32"
    assert slow.asked == ["auto", "float32"]


def test_a_type_that_was_asked_for_needs_no_agreement(tmp_path: Path) -> None:
    load_agreed(tmp_path / "dtype", "auto", Loader("float16"))
    assert load_agreed(tmp_path / "dtype", "float32", Loader("float16")).dtype == "float32"


def test_an_engine_that_cannot_write_is_on_its_own(tmp_path: Path) -> None:
    assert load_agreed(tmp_path / "no" / "dtype", "auto", Loader("float16")).dtype == "float16"
