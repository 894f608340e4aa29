from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import transformers

from checkpoints import tiny_checkpoint
from embedway.models.architectures import quiet_transformers
from embedway.models.mpnet import PackedMpnet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def mpnet(tmp_path: Path) -> transformers.MPNetModel:
    with quiet_transformers():
        return transformers.MPNetModel.from_pretrained(tiny_checkpoint("mpnet", tmp_path)).eval()


@torch.inference_mode()
def test_the_bias_of_each_length_is_what_transformers_computes(mpnet: transformers.MPNetModel) -> None:
    encoder = PackedMpnet(mpnet)
    for length in (1, 7, 130, 300, 20):
        expected = mpnet.encoder.compute_position_bias(torch.empty(1, length, 0))[0]
        torch.testing.assert_close(encoder.position_bias(length), expected, atol=0, rtol=0)


@torch.inference_mode()
def test_the_bias_table_is_made_once_for_all_shorter_lengths(mpnet: transformers.MPNetModel) -> None:
    encoder = PackedMpnet(mpnet)
    longest = encoder.position_bias(100)
    assert encoder.position_bias(3).data_ptr() == longest.data_ptr()
