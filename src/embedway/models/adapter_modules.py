"""The modules of an adapter → those of the base model that it is to run with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.errors import AdapterRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embedway.kernels.native_adapter import LowRank
    from embedway.models.adapter_checkpoint import AdapterWeights

WRAPPERS = frozenset({"0", "auto_model", "base_model", "model"})
"""What an adapter's names begin with where it was trained on a model inside another: sentence-transformers'
`0.auto_model.`, a decoder's `model.`. A model's own prefix (`bert.`) comes beside them. Others are no wrapper: in
`vision_model.encoder…` they choose another part."""
POOLER = "pooler."
"""peft's `all-linear` adapts BERT's pooler too. No embedding reads it, so there such a change comes to nothing."""


def match_modules(
    weights: AdapterWeights, shapes: Mapping[str, tuple[int, int]], *, own_prefix: str
) -> dict[str, LowRank]:
    """The adapter's changes by the base model's names. `shapes` are [out, in] of its linear layers.

    own_prefix is what a checkpoint with a head puts before the names, with or without its dot. Raises AdapterRefused
    for a module that the model does not have, or not in that shape, and where there is nothing to change.
    """
    wrappers = WRAPPERS | {own_prefix.removesuffix(".")}
    matched: dict[str, LowRank] = {}
    for path, change in weights.modules.items():
        names = list(unwrapped(path, wrappers))
        name = next((name for name in names if name in shapes), None)
        if name is None and any(name.startswith(POOLER) for name in names):
            continue
        problem = what_is_wrong(path, name, change, shapes, matched)
        if problem is not None:
            raise AdapterRefused(adapter=weights.name, problem=problem)
        assert name is not None
        matched[name] = change
    if not matched:
        raise AdapterRefused(
            adapter=weights.name, problem="it changes the pooler alone, which no embedding is made with"
        )
    return matched


def what_is_wrong(
    path: str,
    name: str | None,
    change: LowRank,
    shapes: Mapping[str, tuple[int, int]],
    matched: Mapping[str, LowRank],
) -> str | None:
    if name is None:
        return f"{path} is no linear layer of this model that can be adapted"
    if name in matched:
        return f"it changes {name} twice, under two names"
    shape = (change.up.shape[0], change.down.shape[1])
    if shape != shapes[name]:
        return f"it was made for another model: {path} is {shape} there, and {shapes[name]} here"
    return None


def unwrapped(path: str, wrappers: frozenset[str]) -> Iterator[str]:
    """The path, and what is left of it behind each wrapper at its front."""
    yield path
    head, _, rest = path.partition(".")
    while head in wrappers and rest:
        yield rest
        head, _, rest = rest.partition(".")
