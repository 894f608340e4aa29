"""What HTTP, tokenizing and the way between the processes cost: python -m benchmarks.api_process [SOURCE ...]

An API process over an engine whose model costs nothing: CPU time of the API process a request (an item, for lists),
and latency at one connection. Several source trees (`src` folders) take turns, round by round; the default is this one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import orjson
import psutil
import uvloop

from benchmarks.machine import describe_machine
from benchmarks.workloads import documents, queries
from embedway.config import load_settings
from embedway.engine.supervisor import listen
from embedway.engine.wire import ApiConfig, EngineConfig
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HERE = Path(__file__).parent
LIST_LENGTH = 32


class Pair:
    """An API process and its engine, of one source tree."""

    def __init__(self, source: Path, folder: Path) -> None:
        spec = read_spec(locate(MODEL), name=MODEL)
        settings = load_settings({"truncate": "end", "log_level": "warning"})
        address = f"ipc://{folder}/engine.sock"
        engine = EngineConfig(
            spec=spec,
            address=address,
            dtype="float32",
            device="cpu",
            threads=1,
            max_batch_tokens=8192,
            log_level="warning",
        )
        path = f"{source}:{HERE.parent}"
        self._environment = {**os.environ, "PYTHONPATH": path, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        self._engine = self._start(["-m", "benchmarks.free_engine"], engine)
        with listen("127.0.0.1", 0) as listening:
            self.port = listening.getsockname()[1]
            api = ApiConfig(
                settings=settings.revealed(),
                spec=spec,
                engine_addresses=[address],
                socket_fd=listening.fileno(),
                metrics_folder=str(folder),
            )
            self._api = self._start(["-m", "embedway.api.server"], api, listening)
        self.api = psutil.Process(self._api.pid)

    def _start(
        self, arguments: list[str], config: msgspec.Struct, listening: socket.socket | None = None
    ) -> subprocess.Popen[bytes]:
        pass_fds = [listening.fileno()] if listening else []
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            pass_fds=pass_fds,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline(), "it did not start"
        return process

    def close(self) -> None:
        for process in (self._api, self._engine):
            process.kill()
            process.wait()


class Connection(asyncio.Protocol):
    """Sends one request after the other. Leaner than an HTTP library, so that the client takes little of the cores."""

    def __init__(self, requests: Iterator[bytes], is_done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._is_done = is_done
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has a class of its own
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and len(body) == int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            assert head.startswith(b"HTTP/1.1 200"), self._received
            self._received = b""
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            self._is_done.set_result(None)
        else:
            self._transport.write(request)


def http_request(value: str | list[str]) -> bytes:
    body = orjson.dumps({"model": MODEL, "input": value, "encoding_format": "base64"})
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def send_all(port: int, requests: Sequence[bytes], connections: int) -> None:
    loop = asyncio.get_running_loop()
    waiting = iter(requests)
    done = [loop.create_future() for _ in range(connections)]
    for future in done:
        await loop.create_connection(lambda future=future: Connection(waiting, future), "127.0.0.1", port)
    await asyncio.gather(*done)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def measure_cpu(pair: Pair, requests: Sequence[bytes], connections: int) -> tuple[float, float]:
    """CPU microseconds of the API process a request, and requests a second."""
    before, began = cpu_seconds(pair.api), time.perf_counter()
    uvloop.run(send_all(pair.port, requests, connections))
    seconds = time.perf_counter() - began
    return (cpu_seconds(pair.api) - before) / len(requests) * 1e6, len(requests) / seconds


def measure_latency(pair: Pair, requests: Sequence[bytes]) -> float:
    """The median in microseconds, one request at a time."""
    took = []
    with socket.create_connection(("127.0.0.1", pair.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            began = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, default=[HERE.parent / "src"])
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(describe_machine())
    singles = [http_request(text) for text in queries(arguments.requests).texts]
    texts = documents(arguments.requests // 4).texts
    lists = [http_request(texts[i : i + LIST_LENGTH]) for i in range(0, len(texts), LIST_LENGTH)]
    figures: dict[Path, list[tuple[float, ...]]] = {source: [] for source in arguments.sources}
    with tempfile.TemporaryDirectory() as folder:
        pairs = {}
        for i, source in enumerate(arguments.sources):
            own = Path(folder, str(i))
            own.mkdir()
            pairs[source] = Pair(source.absolute(), own)
        for pair in pairs.values():
            measure_cpu(pair, singles[: len(singles) // 4], 64)
        for _ in range(arguments.rounds):
            for source, pair in pairs.items():
                cpu, rate = measure_cpu(pair, singles, 64)
                list_cpu, list_rate = measure_cpu(pair, lists, 8)
                latency = measure_latency(pair, singles[: len(singles) // 4])
                figures[source].append((cpu, rate, list_cpu / LIST_LENGTH, list_rate * LIST_LENGTH, latency))
        for pair in pairs.values():
            pair.close()
    print("| source | CPU µs a query, c=64 | queries/s | CPU µs a document, 8 × 32 | documents/s | p50 µs, c=1 |")
    print("|---|---|---|---|---|---|")
    for source, rows in figures.items():
        medians = (f"{statistics.median(column):.0f}" for column in zip(*rows, strict=True))
        print(f"| {source} | {' | '.join(medians)} |")


if __name__ == "__main__":
    main()
