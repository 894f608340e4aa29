"""Embedway: an embeddings inference server and library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedway.version import __version__

if TYPE_CHECKING:
    from embedway.embedder import Embedder

__all__ = ["Embedder", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Embedder` on first use: the server's processes do without a model's imports."""
    if name == "Embedder":
        from embedway.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
