"""Embedway on a Ray cluster: `app.py` for Ray Serve, `embed_dataset` for Ray Data. Needs the extra `embedway[ray]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedway.cluster.dataset import embed_dataset

__all__ = ["embed_dataset"]


def __getattr__(name: str) -> Any:
    """Loaded when it is used: replicas do without Ray Data and its libraries."""
    if name != "embed_dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from embedway.cluster.dataset import embed_dataset

    return embed_dataset
