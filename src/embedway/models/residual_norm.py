"""The layer norm of a residual sum, in the type of the residual stream and in that of the products."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedway.models.fused_linear import Norm

    NormOfSum: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Norm, torch.dtype], tuple[torch.Tensor, torch.Tensor]]

logger = logging.getLogger("embedway.models")

MOST_DIFFERENCE = 1e-4
"""Of values around 1 in float32, however their sum is ordered"""


def norm_of_sum(
    hidden: torch.Tensor, added: torch.Tensor, norm: Norm, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [rows, columns] and [rows, columns] in any type to their sum's norm, in float32 and in `dtype`.

    `hidden` may be written over.
    """
    out = norm(hidden + added)
    return out, out.to(dtype)


def best_norm_of_sum(norm: Norm, dtype: torch.dtype) -> NormOfSum:
    """In one launch for 16-bit types on CUDA, where Triton is there and gives the same; else in torch.

    It is the place of the norm's weights that counts.
    """
    if not norm.weight.is_cuda or dtype == torch.float32:
        return norm_of_sum
    try:
        from embedway.models import triton_kernels

        sample = torch.linspace(-1, 1, 2 * len(norm.weight), device=norm.weight.device).reshape(2, -1)
        expected, _ = norm_of_sum(sample, sample.to(dtype), norm, dtype)
        got, narrow = triton_kernels.norm_of_sum(sample.clone(), sample.to(dtype), norm, dtype)
        torch.testing.assert_close(got, expected, atol=MOST_DIFFERENCE, rtol=MOST_DIFFERENCE)
        torch.testing.assert_close(narrow, got.to(dtype), atol=0, rtol=0)
    except Exception as error:  # whatever Triton, a C compiler or a driver raises
        logger.warning("Norms take a launch for each step, which is slower: Triton does not work here (%r)", error)
        return norm_of_sum
    return triton_kernels.norm_of_sum
