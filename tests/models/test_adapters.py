"""LoRA adapters on every kind of model, against peft."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from peft import LoraConfig

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import AdapterRefused
from embedway.kernels.native_adapter import LowRank
from embedway.models import bert_family, cpu_linear
from embedway.models.adapter_checkpoint import read_adapter
from embedway.models.architectures import load_model
from embedway.models.bert_config import read_encoder_config
from embedway.models.bert_family import load_bert_family
from embedway.models.packed_transformer import PackedTransformer
from embedway.models.text_model import TextModel
from embedway.models.torch_adapter import Change, TorchAdapter
from embedway.models.transformer_adapter import changed_linears, make_adapter
from embedway.models.transformers_loading import load_with_transformers
from model_loaders import in_library, in_numpy, in_torch, needs_library, with_transformers
from packed_batches import packed, random_sequences
from peft_folders import cosines, peft_folder, peft_vectors, save_random_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import transformers

    from embedway.model_spec import ModelSpec
    from embedway.models.interface import EmbeddingModel, PreparedAdapter

EXACT = 0.99999
LENGTHS = [3, 17, 1, 40, 12, 17, 60, 5, 26]


native_way = pytest.param(in_library, marks=needs_library)
BERTS: dict[str, list[str] | str] = {
    "bert": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
    "xlm-roberta": "all-linear",
    "electra": ["query", "value"],
    "mpnet": ["attn.q", "attn.v", "attn.o", "intermediate.dense"],
    "distilbert": ["q_lin", "k_lin", "out_lin", "lin1", "lin2"],
}
TARGETS: dict[str, list[str] | str] = {
    "mistral": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen3": r"layers\.[01]\.(self_attn\.[qkv]_proj|mlp\.down_proj)",
    "modernbert": ["Wqkv", "Wi"],
    "deberta-v2": ["query_proj", "key_proj", "output.dense"],
    "bert": "all-linear",
}
POOLINGS = {"mistral": "lasttoken", "qwen3": "lasttoken", "distilbert": "cls"}
EVERY_WAY = [
    *(pytest.param(way, family, id=f"{way.__name__}-{family}") for family in BERTS for way in (in_numpy, in_torch)),
    *(pytest.param(in_library, family, marks=needs_library, id=f"in_library-{family}") for family in BERTS),
    *(pytest.param(with_transformers, family, id=f"with_transformers-{family}") for family in TARGETS),
]


class Tiny(NamedTuple):
    """A tiny checkpoint with adapters of several kinds, and what peft makes of its sequences."""

    spec: ModelSpec
    folders: list[Path]
    sequences: list[list[int]]
    choice: list[int]
    """Each sequence's adapter, -1 for the base model"""
    expected: np.ndarray


def tiny(family: str, targets: list[str] | str, folder: Path, **checkpoint: Any) -> Tiny:
    base = tiny_checkpoint(family, folder / "base", pooling=POOLINGS.get(family, "mean"), **checkpoint)
    spec = tiny_spec(base)
    kinds = [
        LoraConfig(r=4, lora_alpha=8, target_modules=targets),
        LoraConfig(r=16, lora_alpha=4, use_rslora=True, target_modules=targets),
        LoraConfig(r=3, rank_pattern={r".*\.0\..*": 7}, alpha_pattern={r".*\.1\..*": 12}, target_modules=targets),
    ]
    folders = [peft_folder(base, folder / str(i), kind, seed=i) for i, kind in enumerate(kinds)]
    sequences = random_sequences(LENGTHS, spec.vocab_size)
    choice = [0, -1, 1, 2, 0, -1, 2, 1, 0]
    expected = np.empty((len(sequences), spec.hidden_size), np.float32)
    for i, adapter in enumerate([*folders, None]):
        places = [place for place, chosen in enumerate(choice) if chosen == (i if adapter else -1)]
        expected[places] = peft_vectors(spec, adapter, [sequences[place] for place in places])
    return Tiny(spec, folders, sequences, choice, expected)


def prepared(model: EmbeddingModel | None, folder: Path) -> PreparedAdapter:
    assert model is not None
    return model.make_adapter(read_adapter(folder, name=folder.name, max_rank=None))


def embed(model: EmbeddingModel | None, case: Tiny) -> np.ndarray:
    assert model is not None
    adapters = [prepared(model, folder) for folder in case.folders]
    chosen = [None if i < 0 else adapters[i] for i in case.choice]
    return model.embed(packed(case.sequences, adapters=chosen))


@pytest.mark.parametrize(("load", "family"), EVERY_WAY)
def test_a_batch_of_base_and_adapters_gives_peft_s_vectors(
    load: Callable[[ModelSpec], EmbeddingModel | None], family: str, tmp_path: Path
) -> None:
    case = tiny(family, TARGETS[family] if load is with_transformers else BERTS[family], tmp_path)
    base = peft_vectors(case.spec, None, case.sequences)
    has_adapter = np.array(case.choice) >= 0
    assert cosines(case.expected, base)[has_adapter].max() < 0.999  # else the comparison would show nothing
    vectors = embed(load(case.spec), case)
    assert cosines(vectors, case.expected).min() >= EXACT
    np.testing.assert_allclose(vectors, case.expected, atol=2e-5 * np.abs(case.expected).max(), rtol=0)


EVERY_KIND = [native_way, in_numpy, in_torch, with_transformers]


@pytest.mark.parametrize("load", EVERY_KIND)
def test_the_base_model_stays_as_it_was(load: Callable[[ModelSpec], EmbeddingModel | None], tmp_path: Path) -> None:
    case = tiny("bert", BERTS["bert"], tmp_path)
    model = load(case.spec)
    assert model is not None
    before = model.embed(packed(case.sequences))
    embed(model, case)
    np.testing.assert_array_equal(model.embed(packed(case.sequences)), before)


@pytest.mark.parametrize("load", EVERY_KIND)
def test_a_vector_depends_on_neither_neighbours_nor_their_adapters(
    load: Callable[[ModelSpec], EmbeddingModel | None], tmp_path: Path
) -> None:
    case = tiny("bert", BERTS["bert"], tmp_path)
    model = load(case.spec)
    assert model is not None
    adapters = [*(prepared(model, folder) for folder in case.folders), None]
    together = model.embed(packed(case.sequences, adapters=[adapters[i] for i in case.choice]))
    unit = np.abs(together).max()
    for i, sequence in enumerate(case.sequences):
        alone = model.embed(packed([sequence], adapters=[adapters[case.choice[i]]]))
        np.testing.assert_allclose(alone[0], together[i], atol=2e-6 * unit, rtol=0)


@pytest.mark.parametrize("load", EVERY_KIND)
def test_an_adapter_for_another_model_is_refused_and_changes_nothing(
    load: Callable[[ModelSpec], EmbeddingModel | None], tmp_path: Path
) -> None:
    other = tiny_checkpoint("bert", tmp_path / "other", config={"hidden_size": 64})
    folder = peft_folder(other, tmp_path / "wide", LoraConfig(target_modules=["query"]))
    case = tiny("bert", BERTS["bert"], tmp_path)
    model = load(case.spec)
    assert model is not None
    with pytest.raises(AdapterRefused, match=r"another model: .*query is \(64, 64\) there, and \(32, 32\) here"):
        prepared(model, folder)
    assert cosines(embed(model, case), case.expected).min() >= EXACT


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_oneDNN_s_fused_layers_get_the_change_before_their_activation(  # noqa: N802
    activation: str, pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bert_family.can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(bert_family, "packing_gain", lambda weight, bias: 2.0 if pays else 0.5)
    case = tiny("bert", ["intermediate.dense"], tmp_path, config={"hidden_act": activation})
    assert cosines(embed(in_torch(case.spec), case), case.expected).min() >= EXACT


def test_oneDNN_s_layers_of_transformers_models_get_their_changes(  # noqa: N802
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_linear.can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(cpu_linear, "packing_gain", lambda weight, bias: 2.0)
    case = tiny("qwen3", TARGETS["qwen3"], tmp_path, config={"hidden_size": 48})
    model = with_transformers(case.spec)
    assert isinstance(model, TextModel)
    assert isinstance(model.encoder, PackedTransformer)
    assert any(isinstance(module, cpu_linear.PackedLinear) for module in model.encoder.model.modules())
    assert cosines(embed(model, case), case.expected).min() >= EXACT


def test_no_hook_is_left_behind_even_where_a_batch_fails(tmp_path: Path) -> None:
    case = tiny("qwen3", TARGETS["qwen3"], tmp_path)
    model = with_transformers(case.spec)
    assert isinstance(model, TextModel)
    assert isinstance(model.encoder, PackedTransformer)
    adapter = prepared(model, case.folders[0])
    with pytest.raises(IndexError):
        model.embed(packed([[case.spec.vocab_size + 1]], adapters=[adapter]))
    embed(model, case)
    assert not any(module._forward_hooks for module in model.encoder.model.modules())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_adapters_run_in_the_type_of_the_model(dtype: str, family: str, tmp_path: Path) -> None:
    case = tiny(family, "all-linear", tmp_path)
    config = read_encoder_config(case.spec)
    if config is None:
        model = load_with_transformers(case.spec, dtype=dtype, device="cpu", threads=1)
    else:
        model = load_bert_family(case.spec, config, dtype=dtype, device="cpu", threads=1)
    assert 0.99 < cosines(embed(model, case), case.expected).min() < 1 - 1e-7


def test_an_adapter_that_overflows_the_model_s_type_is_refused(tmp_path: Path) -> None:
    """Its rows are computed beside other sequences', and zero times infinity is not zero."""
    case = tiny("bert", ["query"], tmp_path)
    config = read_encoder_config(case.spec)
    assert config is not None
    model = load_bert_family(case.spec, config, dtype="float16", device="cpu", threads=1)
    folder = peft_folder(case.spec.folder, tmp_path / "large", LoraConfig(lora_alpha=10**7, target_modules=["query"]))
    with pytest.raises(AdapterRefused, match=r"weights of 0\.qkv are too large for float16"):
        prepared(model, folder)


def test_rows_outside_an_adapter_s_slice_are_bit_for_bit_the_base_model_s() -> None:
    random = torch.Generator().manual_seed(0)
    x, out = torch.randn(64, 6, generator=random), torch.randn(64, 4, generator=random)
    factors = (torch.randn(shape, generator=random).numpy() for shape in ((2, 6), (4, 2)))
    change = Change.of([(0, LowRank(*factors))], dtype=torch.float32, device=torch.device("cpu"))
    for rows in (slice(17, 45), slice(0, 3), slice(61, 64), slice(32, 48)):
        changed = out.clone()
        change.add(x, changed, rows)
        expected = out[rows] + x[rows] @ change.down.T @ change.ups[0].weight
        torch.testing.assert_close(changed[rows], expected)
        outside = torch.ones(64, dtype=torch.bool)
        outside[rows] = False
        assert torch.equal(changed[outside], out[outside])


def test_adapters_are_made_while_batches_run(tmp_path: Path) -> None:
    case = tiny("bert", BERTS["bert"], tmp_path)
    model = in_torch(case.spec)
    assert model is not None
    is_done = threading.Event()

    def make() -> None:
        for _ in range(50):
            prepared(model, case.folders[1])
        is_done.set()

    maker = threading.Thread(target=make)
    maker.start()
    worst = 1.0
    while not is_done.is_set():
        worst = min(worst, cosines(embed(model, case), case.expected).min())
    maker.join()
    assert worst >= EXACT


def test_an_adapter_outlives_the_names_that_held_it(tmp_path: Path) -> None:
    """Who unloads an adapter drops a reference; the batch that still has one gets its vectors."""
    case = tiny("bert", BERTS["bert"], tmp_path)
    model = in_torch(case.spec)
    assert model is not None
    adapter = prepared(model, case.folders[0])
    assert isinstance(adapter, TorchAdapter)
    factor = weakref.ref(adapter.changes["0.qkv"].down)
    batch = packed(case.sequences[:1], adapters=[adapter])
    del adapter
    assert cosines(model.embed(batch), case.expected[:1]).min() >= EXACT
    del batch
    gc.collect()
    assert factor() is None


def test_experts_are_no_layers_of_a_batch_s_rows(tmp_path: Path) -> None:
    class Routed(torch.nn.Module):
        """As transformers names a mixture of experts."""

        base_model_prefix, dtype, device = "model", torch.float32, torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.mlp = torch.nn.ModuleDict({"experts": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})

    folder = save_random_adapter(Routed(), tmp_path, LoraConfig(r=2, target_modules=["experts.0"]))
    weights = read_adapter(folder, name="mine", max_rank=None)
    with pytest.raises(AdapterRefused, match=r"experts\.0 is no linear layer of this model that can be adapted"):
        make_adapter(weights, cast("transformers.PreTrainedModel", Routed()), own_prefix="model")


def test_a_layer_that_is_not_called_with_the_batch_s_rows_fails(tmp_path: Path) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4))
    change = Change.of(
        [(0, LowRank(np.ones((1, 4), np.float32), np.ones((4, 1), np.float32)))],
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    with (
        torch.inference_mode(),
        changed_linears(layer, {"0": [(slice(0, 2), change)]}, num_rows=16),
        pytest.raises(RuntimeError, match="8 rows of 16"),
    ):
        layer(torch.ones(1, 8, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "mpnet", "qwen3"])
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.99)])
def test_adapters_run_on_cuda(family: str, dtype: str, least: float, tmp_path: Path) -> None:
    case = tiny(family, "all-linear", tmp_path)
    model = load_model(case.spec, dtype=dtype, device="cuda")
    assert cosines(embed(model, case), case.expected).min() >= least
