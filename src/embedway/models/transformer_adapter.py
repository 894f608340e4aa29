"""LoRA adapters for any transformers model: while a batch runs, hooks on its linear layers add each adapter's change.

Nothing of a model is replaced, and without adapters nothing is hooked, so the base model runs as if there were none.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from embedway.models.adapter_modules import match_modules
from embedway.models.cpu_linear import PackedLinear
from embedway.models.torch_adapter import TorchAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import torch
    from transformers import PreTrainedModel

    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.torch_adapter import ChangedRows

EXPERTS = "experts"
"""In the path of what sees only those tokens that a router sends there: their rows are not the batch's."""


def make_adapter(weights: AdapterWeights, model: PreTrainedModel, *, own_prefix: str) -> TorchAdapter:
    """Raises AdapterRefused for what is no linear layer of the model, or has another shape.

    own_prefix is the model's name in one that it is a part of, as in `match_modules`.
    """
    linears = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        # exact types: a subclass may compute something else
        if type(module) in (nn.Linear, PackedLinear) and EXPERTS not in name.split(".")
    }
    matched = match_modules(weights, linears, own_prefix=own_prefix)
    layers = {name: [(0, part)] for name, part in matched.items()}
    return TorchAdapter.of(weights.name, layers, dtype=model.dtype, device=model.device)


@contextmanager
def changed_linears(
    model: nn.Module, changes: Mapping[str, ChangedRows], *, num_rows: int | None
) -> Generator[None, None, None]:
    """Within it, the model's linear layers of these names give changed outputs.

    They must be called with num_rows rows where that is not None; a RuntimeError says that they are not.
    """
    handles = []
    try:
        for name, rows in changes.items():
            handles.append(model.get_submodule(name).register_forward_hook(adding(rows, num_rows)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def adding(
    changes: ChangedRows, num_rows: int | None
) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], None]:
    """A forward hook that changes a linear layer's fresh output in place."""

    def hook(_: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        x, out = args[0].reshape(-1, args[0].shape[-1]), output.view(-1, output.shape[-1])
        if num_rows is not None and len(x) != num_rows:
            raise RuntimeError(f"a linear layer with an adapter was called with {len(x)} rows of {num_rows}")
        for rows, change in changes:
            change.add(x, out, rows)

    return hook
