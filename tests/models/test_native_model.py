from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checkpoints import TinyDense, tiny_checkpoint, tiny_spec
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_family import load_bert_family
from embedway.models.native_loading import load_native
from embedway.models.native_model import NativeModel
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from embedway.kernels.native_adapter import LayerAdapter

MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.mark.usefixtures("native_stand_in")
@pytest.mark.parametrize("pooling", [*MODES, ("cls", "mean"), ("mean", "weightedmean", "lasttoken")])
def test_every_pooling_and_dense_module_gives_the_vectors_of_the_torch_path(
    pooling: str | Sequence[str], tmp_path: Path
) -> None:
    dense = [TinyDense(24), TinyDense(16, bias=False, activation="torch.nn.modules.activation.GELU")]
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path, pooling=pooling, dense=dense))
    config = read_encoder_config(spec)
    assert config is not None
    native = load_native(spec, config, dtype="float32", threads=1)
    in_torch = load_bert_family(spec, config, dtype="float32", device="cpu", threads=1)
    assert native is not None
    assert in_torch is not None
    batch = packed(random_sequences([5, 1, 12, 30], spec.vocab_size), pool_starts=[0, 1, 4, 2])
    vectors = native.embed(batch)
    assert vectors.shape == (4, 16)
    np.testing.assert_allclose(vectors, in_torch.embed(batch), atol=1e-5, rtol=0)


class PoolsByItself:
    """Shows which of its methods was used, and how."""

    def embed(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: object,
        pooling: str,
        *,
        adapters: Sequence[object] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> npt.NDArray[np.float32]:
        assert pooling in ("mean", "cls", "max", "lasttoken")
        return np.full((len(cu_seqlens) - 1, 32), 7, np.float32)

    def hidden_states(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        *,
        adapters: Sequence[object] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> npt.NDArray[np.float32]:
        return np.full((len(token_ids), 32), 9, np.float32)

    def make_adapter(self, layers: Sequence[LayerAdapter]) -> object:
        raise NotImplementedError

    def allow_preemption(self, at: npt.NDArray[np.int64], run: Callable[[], None]) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("pooling", "value"), [("mean", 7), ("cls", 7), ("max", 7), ("lasttoken", 7), ("weightedmean", 9)]
)
def test_the_library_pools_where_it_knows_the_mode(pooling: str, value: int, tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path, pooling=pooling))
    config = read_encoder_config(spec)
    assert config is not None
    model = NativeModel(spec, config, PoolsByItself(), (), dtype="float32", backend="native")
    assert (model.embed(packed([[5, 6], [7]])) == value).all()
