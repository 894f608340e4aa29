from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
import transformers

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import UnsupportedCheckpoint
from embedway.models import transformers_loading
from embedway.models.packed_transformer import OneByOneTransformer, PackedTransformer
from embedway.models.self_check import SelfCheck, positions_stand_alone, windows_match
from embedway.models.transformers_loading import load_with_transformers, quiet_transformers
from packed_batches import packed, random_sequences

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedway.model_spec import ModelSpec
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.attention import PackedLayout
    from embedway.models.torch_adapter import AdaptedRows, TorchAdapter


class LeakingBert(transformers.BertModel):
    """Accepts everything packed attention needs, and yet lets each token see the whole row, after the real layers."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor]:
        states = super().forward(input_ids=input_ids, **kwargs)[0]
        return (states + states.mean(dim=1, keepdim=True),)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return tiny_spec(tiny_checkpoint("bert", tmp_path))


@pytest.fixture
def leaking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_loading, "AutoModel", LeakingBert)


def bert(spec: ModelSpec) -> transformers.BertModel:
    with quiet_transformers():
        return transformers.BertModel.from_pretrained(spec.folder).eval()


@pytest.mark.usefixtures("leaking")
def test_a_model_that_mixes_sequences_runs_one_by_one_with_a_warning(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="embedway.models"):
        model = load_with_transformers(spec, dtype="float32", device="cpu", threads=1)
    assert isinstance(model.encoder, OneByOneTransformer)
    assert [record.name for record in caplog.records] == ["embedway.models"]
    assert "one sequence at a time" in caplog.text
    sequences = random_sequences([4, 11], spec.vocab_size)
    together = model.embed(packed(sequences))
    assert abs(together[1] - model.embed(packed(sequences[1:]))[0]).max() <= 1e-6


@pytest.mark.usefixtures("leaking")
def test_a_model_that_cannot_be_packed_nor_turned_round_is_refused(spec: ModelSpec) -> None:
    turned = msgspec.structs.replace(spec, bidirectional=False)
    with pytest.raises(UnsupportedCheckpoint, match="cannot be made causal"):
        load_with_transformers(turned, dtype="float32", device="cpu", threads=1)


def test_a_sound_model_passes(spec: ModelSpec) -> None:
    model = bert(spec)
    check = SelfCheck(model, spec)
    assert check.passes(PackedTransformer(model))


def test_positions_counted_from_a_wrong_start_fail(spec: ModelSpec) -> None:
    model = bert(spec)
    check = SelfCheck(model, spec)
    encoder = PackedTransformer(model)
    encoder.first_position = 2
    assert not check.passes(encoder)


def test_hidden_states_that_are_not_numbers_fail(spec: ModelSpec) -> None:
    class NotNumbers:
        make_way = None

        def hidden_states(
            self, token_ids: torch.Tensor, layout: PackedLayout, adapted: Sequence[AdaptedRows] = ()
        ) -> torch.Tensor:
            return torch.full((len(token_ids), spec.hidden_size), torch.nan)

        def make_adapter(self, weights: AdapterWeights) -> TorchAdapter:
            raise NotImplementedError

    assert not SelfCheck(bert(spec), spec).passes(NotNumbers())


@pytest.mark.parametrize(
    ("declared", "asked", "matches"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}, [None, 8], True),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}, [None, None], False),
        ({"layer_types": ["full_attention", "chunked_attention"]}, [None, None], False),
        ({"sliding_window": 8}, [8, 8], True),
        ({"sliding_window": 8}, [None, None], False),
        ({"sliding_window": 8, "use_sliding_window": False}, [None, None], True),
        ({}, [None, None], True),
    ],
)
def test_declared_windows_must_reach_the_attention(
    declared: dict[str, Any], asked: list[int | None], matches: bool
) -> None:
    config: Any = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**declared))
    assert windows_match(config, asked) is matches


def test_positions_that_depend_on_the_longest_neighbour_do_not_stand_alone(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    config = {"rope_parameters": rope, "max_position_embeddings": 32}
    spec = tiny_spec(tiny_checkpoint("llama", tmp_path, config=config, max_seq_length=64))
    with quiet_transformers():
        model = transformers.AutoModel.from_pretrained(spec.folder)
    assert not positions_stand_alone(model, 64)
    assert positions_stand_alone(model, 32)
