"""LoRA adapters on a real server: the real MiniLM, adapters made by peft, two engines and two API processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from peft import LoraConfig
from tokenizers import Tokenizer

from embedway.model_spec import ModelSpec
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from peft_folders import cosines, peft_folder, peft_vectors
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
EXAMPLE = Path(__file__).parents[2] / "examples" / "lora.py"
ADMIN = {"Authorization": "Bearer secret"}
FFN = ["intermediate.dense", "output.dense"]
CONFIGS: list[dict[str, Any]] = [
    {"r": 8, "target_modules": "all-linear"},
    {"r": 8, "target_modules": ["query", "value"]},
    {"r": 4, "target_modules": ["query", "key", "value"], "lora_alpha": 16},
    {"r": 16, "target_modules": FFN, "use_rslora": True},
    {"r": 3, "target_modules": ["attention.output.dense"]},
    {"r": 64, "target_modules": "all-linear", "lora_alpha": 64},
    {"r": 2, "target_modules": ["query", "value"], "rank_pattern": {"layer.0.attention.self.query": 5}},
    {"r": 1, "target_modules": r".*layer\.[2-4]\..*dense"},
]
TEXTS = [
    f"{word} number {i}: {'and more of it ' * (i % 7)}" for i in range(25) for word in ("cat", "ship", "tax", "sun")
]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return read_spec(locate(MODEL), name=MODEL)


@pytest.fixture(scope="module")
def folders(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        peft_folder(spec.folder, root / f"a{i}", LoraConfig(**config), seed=i, strength=0.5)
        for i, config in enumerate(CONFIGS)
    ]


@pytest.fixture(scope="module")
def server(folders: list[Path]) -> Iterator[RunningServer]:
    """Half of the adapters are loaded at the start, the others lie where requests may load them from."""
    at_start = [f"--lora-paths=a{i}={folder}" for i, folder in enumerate(folders[:4])]
    flags = ["--dtype", "float32", "--replicas", "2", "--api-workers", "2", "--admin-api-key", "secret"]
    with RunningServer(MODEL, *flags, *at_start, "--lora-root", str(folders[0].parent)) as server:
        yield server


def connect(server: RunningServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120)


async def embed(client: httpx.AsyncClient, value: object, **fields: Any) -> npt.NDArray[np.float32]:
    answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": value, **fields})
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


async def load(client: httpx.AsyncClient, name: str, folder: Path) -> None:
    body = {"lora_name": name, "lora_path": str(folder)}
    answer = await client.post("/load_lora_adapter", json=body, headers=ADMIN)
    assert answer.status_code == 200, answer.text


async def unload(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/unload_lora_adapter", json={"lora_name": name}, headers=ADMIN)
    assert answer.status_code == 200, answer.text


async def test_300_requests_at_once_over_eight_adapters_and_the_base_get_their_own_vectors(
    server: RunningServer, spec: ModelSpec, folders: list[Path]
) -> None:
    tokenizer = Tokenizer.from_file(f"{spec.tokenizer_folder}/tokenizer.json")
    tokenizer.no_padding()
    texts = [f"{TEXTS[i % len(TEXTS)]} {i}" for i in range(300)]
    choice = [i % (len(folders) + 1) for i in range(300)]  # the last one is the base
    async with connect(server) as client:

        async def ask(text: str, adapter: int) -> npt.NDArray[np.float32]:
            if adapter == len(folders):
                return (await embed(client, text))[0]
            if adapter < 4:
                return (await embed(client, text, model=f"{MODEL}:a{adapter}"))[0]
            return (await embed(client, text, lora_path=str(folders[adapter])))[0]

        got = await asyncio.gather(*(ask(text, adapter) for text, adapter in zip(texts, choice, strict=True)))
    for adapter, folder in enumerate([*folders, None]):
        own = [i for i in range(300) if choice[i] == adapter]
        expected = peft_vectors(spec, folder, [tokenizer.encode(texts[i]).ids for i in own])
        assert cosines(np.stack([got[i] for i in own]), expected).min() >= 0.99999, adapter


async def test_one_request_may_mix_adapters(server: RunningServer) -> None:
    names = ["a0", None, "a3", "a1", None, "a0"]
    async with connect(server) as client:
        mixed = await embed(client, TEXTS[:6], lora_path=names)
        alone = [await embed(client, text, lora_path=name) for text, name in zip(TEXTS[:6], names, strict=True)]
    assert cosines(mixed, np.concatenate(alone)).min() >= 0.999999


async def test_200_loads_and_unloads_under_load(server: RunningServer, folders: list[Path]) -> None:
    """No error, no wrong vector, no memory kept; each API process knows of each change at once."""
    async with connect(server) as client, connect(server) as other:
        expected = [await embed(client, TEXTS[0], lora_path=str(folder)) for folder in folders[4:6]]
        base = await embed(client, TEXTS[:8])
        is_over = asyncio.Event()

        async def keep_asking() -> int:
            times = 0
            while not is_over.is_set():
                assert cosines(await embed(client, TEXTS[:8]), base).min() >= 0.999999
                times += 1
            return times

        asking = asyncio.create_task(keep_asking())  # one: more of them would only take the loads' processors
        memory = 0
        for i in range(200):
            if i == 40:
                memory = server.resident_bytes()
            await load(client, "churn", folders[4 + i % 2])
            got = await asyncio.gather(*(embed(c, TEXTS[0], model=f"{MODEL}:churn") for c in (client, other)))
            assert cosines(np.concatenate(got), np.repeat(expected[i % 2], 2, axis=0)).min() >= 0.999999, i
            if i % 4 == 3:  # the other times it is replaced
                await unload(client, "churn")
        is_over.set()
        assert await asking > 0
        assert server.resident_bytes() < memory * 1.08


async def until_all_are_ready(client: httpx.AsyncClient) -> None:
    async def poll() -> None:
        while None in (await client.get("/server_info")).json()["engines"]:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(poll(), 60)


async def test_engines_that_died_load_again_what_requests_need(server: RunningServer) -> None:
    """Each in its turn, with requests under way: the other one or the successor answers them."""
    async with connect(server) as client:
        before = await embed(client, TEXTS[:16], lora_path="a0")
        for engine in server.children("embedway.engine.loop"):
            await until_all_are_ready(client)
            asking = [asyncio.create_task(embed(client, TEXTS[:16], lora_path="a0")) for _ in range(16)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            engine.send_signal(signal.SIGKILL)
            for vectors in await asyncio.gather(*asking):
                assert cosines(vectors, before).min() >= 0.999999
        await until_all_are_ready(client)
        for vectors in await asyncio.gather(*(embed(client, TEXTS[:16], lora_path="a0") for _ in range(16))):
            assert cosines(vectors, before).min() >= 0.999999


def test_the_example_trains_an_adapter_that_separates_better_than_the_base(
    server: RunningServer, spec: ModelSpec
) -> None:
    """It asserts so itself, with texts that it has not trained on."""
    environment = {
        **os.environ,
        "EMBEDWAY_URL": server.url,
        "ADMIN_KEY": "secret",
        "MODEL_FOLDER": spec.folder,
        "HF_HUB_OFFLINE": "1",
    }
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("base 0.")


def test_a_refused_adapter_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"--lora-paths: .*'bad'.*adapter_config.json"):
        RunningServer(MODEL, f"--lora-paths=bad={tmp_path}")
