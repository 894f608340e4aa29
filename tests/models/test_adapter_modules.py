from __future__ import annotations

import numpy as np
import pytest

from embedway.errors import AdapterRefused
from embedway.kernels.native_adapter import LowRank
from embedway.models.adapter_checkpoint import AdapterWeights
from embedway.models.adapter_modules import match_modules

SHAPES = {"encoder.layer.0.query": (4, 6), "encoder.layer.0.up": (12, 4)}


def weights(**modules: tuple[int, int]) -> AdapterWeights:
    """An adapter of rank 2 for modules of these shapes; `__` stands for a dot."""
    changes = {
        name.replace("__", "."): LowRank(np.ones((2, ins), np.float32), np.ones((outs, 2), np.float32))
        for name, (outs, ins) in modules.items()
    }
    return AdapterWeights("mine", "/secret", "0" * 64, changes)


@pytest.mark.parametrize(
    "prefix", ["", "bert.", "model.", "0.auto_model.", "0.model.", "auto_model.bert.", "base_model.model.bert."]
)
def test_names_of_a_wrapped_model_are_the_base_model_s(prefix: str) -> None:
    adapter = weights(**{f"{prefix}{name}": shape for name, shape in SHAPES.items()})
    assert match_modules(adapter, SHAPES, own_prefix="bert.").keys() == SHAPES.keys()


REFUSED = {
    "another part of a larger model": ({"vision_model.encoder.layer.0.query": (4, 6)}, "vision_model.encoder"),
    "another family's wrapper": ({"roberta.encoder.layer.0.query": (4, 6)}, "is no linear layer of this model"),
    "a module beside a right one": ({**SHAPES, "classifier": (2, 4)}, "classifier is no linear layer of this model"),
    "a layer more": ({"encoder.layer.1.query": (4, 6)}, "encoder.layer.1.query is no linear layer"),
    "a wider model": ({"encoder.layer.0.query": (4, 8)}, "another model: encoder.layer.0.query is (4, 8) there"),
    "a narrower one": ({"bert.encoder.layer.0.up": (8, 4)}, "is (8, 4) there, and (12, 4) here"),
    "one module twice": (
        {"encoder.layer.0.query": (4, 6), "bert.encoder.layer.0.query": (4, 6)},
        "changes encoder.layer.0.query twice",
    ),
    "the pooler alone": ({"bert.pooler.dense": (4, 4)}, "the pooler alone"),
    "a wrapper without anything": ({"bert": (4, 4)}, "bert is no linear layer"),
}


@pytest.mark.parametrize(("modules", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_the_model_does_not_have_is_refused(modules: dict[str, tuple[int, int]], reason: str) -> None:
    with pytest.raises(AdapterRefused) as caught:
        match_modules(weights(**modules), SHAPES, own_prefix="bert")
    assert reason in caught.value.message
    assert "/secret" not in caught.value.message


def test_a_change_of_the_pooler_comes_to_nothing_and_the_rest_counts() -> None:
    adapter = weights(**{"pooler.dense": (4, 4), "encoder.layer.0.query": (4, 6)})
    assert list(match_modules(adapter, SHAPES, own_prefix="bert.")) == ["encoder.layer.0.query"]


def test_a_model_that_has_a_layer_called_pooler_gets_its_change() -> None:
    shapes = {"pooler.dense": (4, 4)}
    assert list(match_modules(weights(**shapes), shapes, own_prefix="bert.")) == ["pooler.dense"]
