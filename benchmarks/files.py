"""`embedway embed` beside the engine alone and the way over HTTP: python -m benchmarks.files

With --memory-rows 1000000 instead: the memory of a long run, from its first tenth to its end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import run_load, write_request
from benchmarks.machine import read_machine
from benchmarks.peers import PEERS, Server
from benchmarks.running_peer import RunningServer
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts
from embedway.config import load_settings
from embedway.files.local_model import load_vectors
from embedway.files.run import VectorForm

LOADS: dict[str, Lengths] = {"documents": document_lengths, "queries": query_lengths}
CHUNK_ROWS = 2048
HTTP_SECONDS = 5.0
SAMPLE_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs=2, type=int, default=[4000, 30_000], help="documents and queries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-rows", type=int)
    arguments = parser.parse_args()
    print(read_machine())
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory_rows:
            measure_memory(Path(folder), arguments.memory_rows)
        else:
            measure_throughput(Path(folder), dict(zip(LOADS, arguments.rows, strict=True)), arguments.rounds)


# ── throughput ──


def measure_throughput(folder: Path, num_rows: dict[str, int], rounds: int) -> None:
    print(
        "| rows/s | model alone | tokenizer and model | embedway embed | embed --url | HTTP, a row a request ", end=""
    )
    print("| embed / model | / tokenizer and model | / --url | / a row a request |")
    print("|---" * 10 + "|")
    peer = PEERS["embedway"]
    assert isinstance(peer, Server)
    server = RunningServer(peer, minilm_folder())
    vectors = load_vectors(load_settings({}), VectorForm(), {}).vectors
    try:
        for load, lengths in LOADS.items():
            seen: list[tuple[float, ...]] = []
            for i in range(rounds):
                own = [text.text for text in itertools.islice(texts(lengths, f"files {load} {i}"), num_rows[load])]
                file = write_rows(folder / f"{load}{i}.jsonl", own)
                began = time.perf_counter()
                prepared = vectors.prepare(own)
                tokenized = time.perf_counter()
                vectors.embed(prepared)
                computed = time.perf_counter()
                seen.append(
                    (
                        len(own) / (computed - tokenized),
                        len(own) / (computed - began),
                        embed(file),
                        embed(file, "--url", f"http://127.0.0.1:{server.port}", "--concurrency", "8"),
                        one_by_one(server.port, peer.path, own),
                    )
                )
            shown = " | ".join(f"{statistics.median(column):.0f}" for column in zip(*seen, strict=True))
            ratios = [statistics.median(here / row[i] for row in seen for here in [row[2]]) for i in (0, 1, 3, 4)]
            print(f"| {load} | {shown} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
    finally:
        server.stop()


def one_by_one(port: int, path: str, own: Sequence[str]) -> float:
    """Rows a second over 64 connections."""
    requests = [write_request(path, [text], {}) for text in own]
    result = run_load(port, requests, connections=64, seconds=HTTP_SECONDS)
    return len(result.latencies) / result.seconds


def write_rows(file: Path, own: Sequence[str]) -> Path:
    with file.open("w") as stream:
        for i, text in enumerate(own):
            stream.write(json.dumps({"id": i, "text": text}) + "\n")
    return file


def rows_of(file: Path) -> int:
    return len(file.read_bytes().splitlines())


def embed(file: Path, *options: str) -> float:
    """Rows a second, from the first row on: without the model's start."""
    output = file.with_suffix(".parquet")
    command = [sys.executable, "-m", "embedway", "embed", str(file), "-o", str(output), "--json", "--overwrite"]
    command += ["--chunk-rows", str(max(64, rows_of(file) // 16))]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)
    output.unlink()
    return summary["rows"] / summary["seconds"]


# ── memory ──


def measure_memory(folder: Path, num_rows: int) -> None:
    words = ["apple", "river", "stone", "cloud", "green", "seven", "paper", "light", "music", "table"]
    file = folder / "rows.jsonl"
    with file.open("w") as stream:
        for i in range(num_rows):
            stream.write(f'{{"id": {i}, "text": "{words[i % 10]} {words[i // 10 % 10]} {i % 1000}"}}\n')
    output = folder / "rows.parquet"
    command = [sys.executable, "-m", "embedway", "embed", str(file), "-o", str(output)]
    process = psutil.Popen([*command, "--chunk-rows", str(CHUNK_ROWS)])
    samples: list[tuple[float, int]] = []
    parts = folder / "rows.parquet.parts"
    began = time.monotonic()
    while process.poll() is None:
        done = len(list(parts.glob("part-*.parquet"))) * CHUNK_ROWS / num_rows if parts.exists() else 0.0
        is_joining = output.with_name(f"{output.name}.unfinished").exists()
        samples.append((2.0 if is_joining else done, process.memory_info().rss if process.is_running() else 0))
        time.sleep(SAMPLE_SECONDS)
    assert process.returncode == 0
    at_tenth = max(rss for done, rss in samples if done <= 0.1)
    later = max(rss for done, rss in samples if 0.1 < done <= 1)
    joining = max((rss for done, rss in samples if done > 1), default=0)
    print("| rows | seconds | RSS to 10% | RSS from 10% to 100% | growth | while the parts are joined |")
    print("|---|---|---|---|---|---|")
    megabytes = [f"{value / 2**20:.0f} MiB" for value in (at_tenth, later, later - at_tenth, joining)]
    print(f"| {num_rows:,} | {time.monotonic() - began:.0f} | {' | '.join(megabytes)} |")


if __name__ == "__main__":
    main()
