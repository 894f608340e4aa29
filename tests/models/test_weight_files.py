from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedway.errors import UnsupportedCheckpoint
from embedway.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from pathlib import Path

VALUES = torch.tensor([[1.5, -0.1, 3e-5], [65504.0, 0.0, -2.75]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_is_read_as_torch_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"a": VALUES.to(dtype)}, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    for read in (files.matrix, files.vector, files.table):
        values = read("a")
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, VALUES.to(dtype).float().numpy())


def test_float32_matrices_are_views_of_the_file_and_vectors_are_not(tmp_path: Path) -> None:
    save_file({"a": VALUES, "b": VALUES[0].clone()}, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    assert not files.matrix("a").flags.owndata
    assert np.shares_memory(files.matrix("a"), files.matrix("a"))
    assert not np.shares_memory(files.matrix("a"), files.table("a"))
    assert files.vector("b").flags.owndata


def test_what_is_read_can_be_given_to_torch_and_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": VALUES}, path)
    torch.from_numpy(WeightFiles(tmp_path).matrix("a")).zero_()
    assert torch.equal(load_file(path)["a"], VALUES)


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    save_file({"a": VALUES}, tmp_path / "part-1.safetensors")
    save_file({"b": -VALUES}, tmp_path / "part-2.safetensors")
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    files = WeightFiles(tmp_path)
    assert files.shapes() == {"a": (2, 3), "b": (2, 3)}
    np.testing.assert_array_equal(files.matrix("b"), -VALUES.numpy())


def test_a_tensor_that_is_not_aligned_is_read_all_the_same(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    header += b" " * ((3 - len(header)) % 4)
    data = len(header).to_bytes(8, "little") + header + VALUES.numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    values = WeightFiles(tmp_path).matrix("a")
    assert values.flags.aligned
    np.testing.assert_array_equal(values, VALUES.numpy())


def test_integers_are_refused_where_they_are_read(tmp_path: Path) -> None:
    save_file({"a": VALUES, "position_ids": torch.arange(3)}, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    assert files.matrix("a").shape == (2, 3)
    with pytest.raises(UnsupportedCheckpoint, match="I64"):
        files.matrix("position_ids")


@pytest.mark.parametrize("keep", [0, 5, 40, -4])
def test_a_file_that_was_cut_short_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": VALUES}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnsupportedCheckpoint, match=r"model\.safetensors cannot be read"):
        WeightFiles(tmp_path)


def test_a_header_that_lies_about_a_tensor_s_size_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 24]}}).encode()
    data = len(header).to_bytes(8, "little") + header + VALUES.numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UnsupportedCheckpoint, match="size"):
        WeightFiles(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"pytorch_model\.bin"):
        WeightFiles(tmp_path)
