"""The base install: no torch, no transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import numpy as np
import psutil
import pytest

import without_torch
from checkpoints import tiny_checkpoint
from embedway import Embedder
from embedway.kernels import native
from running_server import RunningServer
from texts import varied_texts

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.skipif(not native.gemm_types(), reason="the native library is not built")
@pytest.mark.skipif(not psutil.LINUX, reason="reads the processes' memory maps")
def test_a_server_embeds_minilm_and_no_process_of_it_has_torch() -> None:
    texts = varied_texts(40)
    with RunningServer("--truncate", "end", environment=without_torch.ENVIRONMENT) as server:
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": texts}, timeout=60)
        assert answer.status_code == 200, answer.text
        versions = httpx.get(f"{server.url}/server_info").json()["versions"]
        root = psutil.Process(server.process.pid)
        maps = [region.path for process in [root, *root.children(recursive=True)] for region in process.memory_maps()]
    assert versions["tokenizers"]
    assert versions["torch"] is versions["transformers"] is None
    vectors = np.array([item["embedding"] for item in answer.json()["data"]])
    exact = Embedder(MODEL, dtype="float32").embed(texts, truncate="end")
    assert (vectors * exact).sum(axis=1).min() >= 0.9999
    assert any("numpy" in path for path in maps)
    assert not [path for path in maps if "torch" in path]


def test_a_model_that_needs_torch_ends_the_server_with_what_to_install(tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3", tmp_path / "decoder", pooling="lasttoken")
    with pytest.raises(RuntimeError, match=r"decoder .*needs torch.*pip install 'embedway\[torch\]'"):
        RunningServer(str(folder), environment=without_torch.ENVIRONMENT)
