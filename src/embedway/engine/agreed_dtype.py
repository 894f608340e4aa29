"""One type for all engines of a server: where `auto` is measured, those that come later compute as the first does.

Speeds that are nearly the same, or other work on the machine, would have one engine choose float16 and the next
float32: then a text's vector would depend on who answers, and change with a restart.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from embedway.models.interface import EmbeddingModel


def load_agreed(agreement: Path, asked: str, load: Callable[[str], EmbeddingModel]) -> EmbeddingModel:
    """Call `load` with a type; `agreement` is the file, the same for all engines, that says which `auto` is.

    Engines that start at the same time measure each by itself, and the one that is ready first decides: another one
    that chose otherwise loads once more. Raises what `load` does.
    """
    if asked != "auto":
        return load(asked)
    if agreement.exists():
        return load(agreement.read_text(encoding="ascii"))
    model = load(asked)
    chosen = model.dtype
    if (agreed := _agree(agreement, chosen)) == chosen:
        return model
    del model  # never two copies of it
    return load(agreed)


def _agree(agreement: Path, chosen: str) -> str:
    """What the file says, once it is there. Where it cannot be written, each engine is on its own."""
    draft = agreement.with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(chosen, encoding="ascii")
        with contextlib.suppress(FileExistsError):
            os.link(draft, agreement)  # whole, or not at all
        return agreement.read_text(encoding="ascii")
    except OSError:
        return chosen
    finally:
        draft.unlink(missing_ok=True)
