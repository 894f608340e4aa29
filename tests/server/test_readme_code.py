"""The code of README.md and the pages under docs/ does what its comments say, against a running server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from running_server import RunningServer

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:30000"


def code_of(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


README = code_of("README.md", "python")
RUN_ELSEWHERE = {
    "docs/batch-api.md": "by tests/server/test_batches.py: it needs a server with --data-dir",
    "docs/multimodal.md": "by tests/server/test_clients.py, as examples/multimodal.py: it needs another model",
    "docs/clients.md": "by tests/server/test_clients_page.py: each client in its environment",
    "docs/cluster.md": "by tests/cluster/test_dataset.py, with files of this machine",
    "docs/add-a-model.md": "by tests/models/test_checkpoint_parity.py, which compares more",
}
CLIENTS = {
    f"{page.relative_to(ROOT)}-{i}": code
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if str(page.relative_to(ROOT)) not in RUN_ELSEWHERE
    for i, code in enumerate(code_of(str(page.relative_to(ROOT)), "python"))
}


def run(command: list[str]) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("code", [README[0], *CLIENTS.values()], ids=["README.md", *CLIENTS])
def test_clients_print_what_their_comments_say(minilm_server: RunningServer, code: str) -> None:
    printed = run([sys.executable, "-c", code.replace(URL, minilm_server.url)]).splitlines()
    assert printed == re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert printed


def test_the_python_api_gives_what_its_comment_says() -> None:
    [_, code] = README
    assert "# numpy, float32, [2, 384]" in code
    assert run([sys.executable, "-c", f"{code}print(vectors.dtype, vectors.shape)"]) == "float32 (2, 384)\n"


@pytest.mark.parametrize(("page", "num_texts"), [("README.md", 1), ("docs/clients.md", 2), ("docs/index.md", 1)])
def test_curl(minilm_server: RunningServer, page: str, num_texts: int) -> None:
    [command] = [code for code in code_of(page, "sh") if code.startswith("curl")]
    answer = json.loads(run(["bash", "-c", command.replace(URL, minilm_server.url)]))
    assert [len(item["embedding"]) for item in answer["data"]] == [384] * num_texts
