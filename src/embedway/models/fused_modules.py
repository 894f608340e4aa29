"""transformers' modules with what they compute in many launches in one, for a GPU.

Three pieces of the decoders of Llama's kind, wherever a model has them: the RMS norm, the rotary positions, and the
product of the gated layer. Each is tried against the model's own on random values, and left alone where it differs.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    Rotary = Callable[..., tuple[torch.Tensor, torch.Tensor]]

logger = logging.getLogger("embedway.models")

MOST_DIFFERENCE = 1e-2
"""Relative L2 of one module's output in a 16-bit type: another rounding stays below, another formula does not."""
SAMPLE_ROWS = 5
ROTARY = "apply_rotary_pos_emb"
"""What attention of transformers calls by this name; most, but not all, mean the same by it."""


class Kernels(Protocol):
    """As `triton_kernels` describes them."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...
    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor: ...
    def silu_times(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor: ...


def fuse_on_cuda(model: nn.Module) -> None:
    """`fuse` with Triton's kernels, for a model in a 16-bit type on CUDA; nothing for others."""
    weight = next(model.parameters())
    if not weight.is_cuda or weight.dtype == torch.float32:
        return
    try:
        from embedway.models import triton_kernels

        count = fuse(model, triton_kernels)
    except Exception as error:  # whatever Triton, a C compiler or a driver raises
        logger.warning("The model takes a launch for each step, which is slower: Triton does not work here (%r)", error)
    else:
        logger.info("%d modules of the model run fused", count)


@torch.inference_mode()
def fuse(model: nn.Module, kernels: Kernels) -> int:
    """Give modules of the model a faster `forward` where it computes the same; returns how many.

    Their layers stay where they are, so that adapters find them.
    """
    count = 0
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            count += _fuse_norm(module, kernels)
        elif kind.endswith("MLP"):
            count += _fuse_gated(module, kernels)
        elif kind.endswith("Attention"):
            count += _fuse_rotary(module, kernels)
    return count


def _fuse_norm(module: nn.Module, kernels: Kernels) -> bool:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, torch.Tensor) or weight.ndim != 1 or eps is None:
        return False
    sample = _sample(len(weight), like=weight)
    weights = (weight, weight.float() + 1)  # Gemma's are stored less one
    return any(_replace(module, functools.partial(kernels.rms_norm, weight=w, eps=eps), sample) for w in weights)


def _fuse_gated(module: nn.Module, kernels: Kernels) -> bool:
    gate, up, down = (getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj"))
    if not (isinstance(gate, nn.Linear) and isinstance(up, nn.Linear) and isinstance(down, nn.Linear)):
        return False

    def fused(x: torch.Tensor) -> torch.Tensor:
        return down(kernels.silu_times(gate(x), up(x)))

    return _replace(module, fused, _sample(gate.in_features, like=gate.weight))


def _replace(module: nn.Module, fused: Callable[[torch.Tensor], torch.Tensor], sample: torch.Tensor) -> bool:
    """Have a module call `fused`, if that gives for the sample what the module gives."""
    if not _agree(fused(sample), module(sample)):
        return False
    module.forward = fused
    return True


def _fuse_rotary(module: nn.Module, kernels: Kernels) -> bool:
    """Have an attention's forward call a rotary of ours by the name of its own: a copy of the function that differs in
    this name alone, so that other models of its class stay as they are."""
    forward = type(module).forward
    size, weight = getattr(module, "head_dim", None), next(module.parameters(), None)
    if not inspect.isfunction(forward) or ROTARY not in forward.__code__.co_names or size is None or weight is None:
        return False
    own: Rotary = forward.__globals__[ROTARY]
    fused = functools.partial(_rotary, kernels.rotate, own)
    q = _sample(SAMPLE_ROWS, 5, size, like=weight).transpose(1, 2)
    q, k, cos, sin = q[:, :2], q[:, 2:3], q[:, 3], q[:, 4]
    if not all(map(_agree, fused(q, k, cos, sin), own(q, k, cos, sin))):
        return False
    names = {**forward.__globals__, ROTARY: fused}
    copy = types.FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    module.forward = types.MethodType(copy, module)
    return True


def _rotary(
    rotate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    own: Rotary,
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' `apply_rotary_pos_emb`: by `rotate` for a packed row of tokens, by its own for all else."""
    is_packed = q.shape[0] == 1 and cos.shape == sin.shape == (1, q.shape[-2], q.shape[-1]) and unsqueeze_dim == 1
    if not is_packed or not all(x.stride(-1) == 1 for x in (q, k)):
        return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
    cos, sin = cos.contiguous(), sin.contiguous()
    return rotate(q, cos, sin), rotate(k, cos, sin)


def _sample(*shape: int, like: torch.Tensor) -> torch.Tensor:
    """[1, …], a fixed noise"""
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    return noise.to(like.device, like.dtype)


def _agree(got: torch.Tensor, expected: torch.Tensor) -> bool:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    got, expected = got.float(), expected.float()
    return bool((got - expected).norm() <= MOST_DIFFERENCE * expected.norm())
