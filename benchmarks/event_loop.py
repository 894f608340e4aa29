"""How long bulk bodies hold an API process's event loop: python -m benchmarks.event_loop [NAME=FOLDER/src …]

Each body is sent by itself, `--rounds` times after one that warms up, while datagrams ask the loop every half
millisecond (`loop_probe/sitecustomize.py`) and a client asks for /livez. Of each source tree, in one run:

- loop: the longest that the loop itself was at work between two of its turns, in CPU time;
- hold: the longest wait of a datagram for the loop, but not more than the CPU time that all the process's threads had
  in it (with a tokenizer's threads, which stop nobody, it says too much);
- wait: the same by the clock;
- /livez: p99 and longest latency, milliseconds.

With `--control`, each body is also sent to the first source's server while another one, which has nothing to do but to
answer /livez, is measured: that is what the machine does to a loop beside such work.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import mmap
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from PIL import Image

from benchmarks.checkpoints import minilm_folder, write_random_clip
from benchmarks.loop_probe.sitecustomize import RESULT, take_real_time
from benchmarks.machine import read_machine
from benchmarks.texts import read_prose

HERE = Path(__file__).parent
TICK_SECONDS = 0.0005
PING_SECONDS = 0.002
LONGEST_REQUEST = 30.0
"""Seconds; the client then goes away"""
READY = re.compile(r"is ready at http://127\.0\.0\.1:(\d+)")
MODEL = "model"
CONTROL = "control"


@dataclass
class Measured:
    waits: list[float] = field(default_factory=list)
    holds: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    statuses: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        longest, p99 = max(self.latencies), float(np.percentile(self.latencies, 99))
        figures = (max(self.turns), max(self.holds), max(self.waits), p99, longest)
        return " | ".join(f"{1000 * figure:.1f}" for figure in figures) + f" | {', '.join(sorted(self.statuses))}"


class ProbedServer:
    """`embedway serve` of a source tree, whose API process tells how long its loop was held."""

    def __init__(self, source: Path, model: Path, folder: Path, switch: str) -> None:
        self.socket = str(folder / "probe")
        Path(self.socket + ".out").write_bytes(bytes(RESULT.size))
        with Path(self.socket + ".out").open("r+b") as file:
            self._result = mmap.mmap(file.fileno(), RESULT.size)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "embedway", "serve", str(model), "--port", "0", "--served-model-name", MODEL],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": f"{HERE / 'loop_probe'}:{source}",
                "COLUMNS": "500",
                "HF_HUB_OFFLINE": "1",
                "LOOP_PROBE": self.socket,
                "LOOP_PROBE_SWITCH": switch,
            },
        )
        assert self.process.stdout is not None
        self.port = next(int(found[1]) for line in self.process.stdout if (found := READY.search(line)))
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def take_result(self) -> tuple[float, float, float]:
        """Longest wait, hold and turn since the last call."""
        result = RESULT.unpack_from(self._result)
        RESULT.pack_into(self._result, 0, 0.0, 0.0, 0.0)
        return result

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def post(port: int, body: bytes) -> str:
    """The answer's status, or how the request ended."""
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    deadline = time.monotonic() + LONGEST_REQUEST
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_REQUEST) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        status = b""
        try:
            while piece := connection.recv(2**20):
                status = status or piece[9:12]
                connection.settimeout(max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            return "left"
    return status.decode()


@contextlib.contextmanager
def beside(work: Callable[[], None], seconds: float) -> Generator[None]:
    """`work` in a thread, again and again."""
    is_over = threading.Event()

    def run() -> None:
        take_real_time(4)
        while not is_over.wait(seconds):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def measure(server: ProbedServer, body: bytes, rounds: int, *, port: int) -> Measured:
    """`port`: of the server that gets the body."""
    measured = Measured()
    ticks = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ticks.setblocking(False)
    pings = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def tick() -> None:
        with contextlib.suppress(BlockingIOError):
            ticks.sendto(struct.pack("<d", time.monotonic()), server.socket)

    def ping() -> None:
        begun = time.monotonic()
        pings.request("GET", "/livez")
        pings.getresponse().read()
        measured.latencies.append(time.monotonic() - begun)

    ping()  # a connection's and a route's first use take longer
    post(port, body)
    measured.latencies.clear()
    with beside(tick, TICK_SECONDS), beside(ping, PING_SECONDS):
        for _ in range(rounds):
            time.sleep(0.2)
            server.take_result()
            measured.statuses.add(post(port, body))
            time.sleep(0.05)  # what the request held is freed
            wait, hold, turn = server.take_result()
            measured.turns.append(turn)
            measured.waits.append(wait)
            measured.holds.append(hold)
    return measured


def body_of(value: object, **fields: object) -> bytes:
    return orjson.dumps({"model": MODEL, "input": value, "encoding_format": "base64", **fields})


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(read_prose().words, k=count))


def text_bodies() -> Iterator[tuple[str, bytes]]:
    short = [words(2, i) for i in range(2048)]
    yield "one short text", body_of(short[0])
    yield "2048 short texts, answer as base64", body_of(short)
    yield "2048 short texts, answer as numbers", body_of(short, encoding_format="float")
    yield "2048 × 4 token ids", body_of([[1000 + (i + j) % 20000 for j in range(4)] for i in range(2048)])
    yield "2048 × 512 token ids", body_of([[1000 + (i + j) % 20000 for j in range(512)] for i in range(2048)])
    yield "63 MiB of token ids", body_of([[1000 + j for j in range(6500)]] * 2048)
    yield "a text of 60 MB", body_of((words(5000, 0) * 2000)[:60_000_000], truncate="end")
    yield "a prompt of 60 MB", body_of("a text", prompt=(words(5000, 0) * 2000)[:60_000_000], truncate="end")
    yield "2048 texts of 29 kB", body_of([words(4600, i)[:29_000] for i in range(2048)], truncate="end")


def image_bodies() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    items = []
    for i in range(2048):
        pixels[0, 0] = (*divmod(i, 256), 0)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        items.append({"image": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()})
    yield "2048 images of 16 kB as data URIs", body_of(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=[f"here={HERE.parent / 'src'}"], metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="Bodies whose name has this")
    parser.add_argument("--switch", default="", help="Seconds of Python's switch interval, instead of the server's own")
    parser.add_argument("--images", action="store_true", help="Images, on a model of CLIP ViT-B/32's shape, not texts")
    parser.add_argument("--control", action="store_true", help="Measure an idle server beside each body, too")
    arguments = parser.parse_args()
    print(read_machine())
    print("| body | source | loop | hold | wait | /livez p99 | longest | status |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        model = minilm_folder()
        if arguments.images:
            model = Path(folder) / "clip"
            write_random_clip(model)
        servers = {}
        sources = [source.split("=", 1) for source in arguments.sources]
        if arguments.control:
            sources.append([CONTROL, sources[0][1]])
        for name, path in sources:  # one after the other: they would measure each other
            own = Path(folder) / name
            own.mkdir()
            servers[name] = ProbedServer(Path(path), model, own, arguments.switch)
        first = servers[sources[0][0]]
        try:
            for label, body in image_bodies() if arguments.images else text_bodies():
                for name, server in servers.items() if arguments.only in label else ():
                    port = (first if name == CONTROL else server).port
                    print(f"| {label} | {name} | {measure(server, body, arguments.rounds, port=port)} |", flush=True)
        finally:
            for server in servers.values():
                server.stop()


if __name__ == "__main__":
    main()
