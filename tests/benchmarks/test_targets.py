from __future__ import annotations

import msgspec
import pytest
from benchmarks.machine import Machine, read_machine
from benchmarks.results import Engine, Gemm, Run, Serving, Start
from benchmarks.targets import Evidence, rows

AMD = msgspec.structs.replace(read_machine(), vector_unit="avx512_bf16")
INTEL = msgspec.structs.replace(AMD, vector_unit="amx_bf16")


def run(peer: str, workload: str, per_second: float, p50_ms: float = 1.0) -> Run:
    """A second of work"""
    return Run(
        peer=peer,
        workload=workload,
        round=0,
        seconds=1.0,
        texts=int(per_second),
        tokens=int(per_second),
        p50_ms=p50_ms,
        p99_ms=p50_ms,
        peer_cpu_seconds=1.0,
    )


def engine(machine: Machine = AMD) -> Engine:
    """A roofline of 0.5 TFLOP/s, 10 MFLOP a token: 50 000 tokens a second at best."""
    return Engine(
        machine=machine,
        date="",
        command="",
        dtypes={"embedway auto minilm": "bfloat16"},
        runs=[
            run("embedway auto", "minilm documents", 30_000),
            run("tokenizing", "minilm documents", 60_000),
            run("sentence-transformers float32", "minilm documents", 4_000),
        ],
        gemms=[
            Gemm(model="minilm", dtype=dtype, source=source, shapes="layers", tflops=tflops)
            for dtype, source, tflops in (
                ("bfloat16", "torch", 0.2),
                ("bfloat16", "other", 0.5),
                ("float32", "torch", 9),
            )
        ],
        flops_per_token={"minilm documents": 10e6},
        worst_cosine={"embedway auto": 0.99995},
    )


def serving() -> list[Serving]:
    start = Start(
        peer="embedway",
        model="minilm",
        round=0,
        seconds_to_first_answer=1.5,
        ready_resident_mb=100,
        loaded_resident_mb=500,
        loaded_proportional_mb=400,
        worst_cosine=1.0,
    )
    result = Serving(
        machine=AMD,
        date="",
        command="",
        runs=[
            run("embedway", "documents, 64 connections", 250),
            run("vllm", "documents, 64 connections", 10),
            run("vllm-bfloat16", "documents, 64 connections", 100),
            run("embedway", "queries, 1 connection", 0, p50_ms=1.0),
            run("vllm", "queries, 1 connection", 0, p50_ms=4.0),
            run("vllm-bfloat16", "queries, 1 connection", 0, p50_ms=8.0),
        ],
        starts=[start],
    )
    return [result]


def row(beginning: str, evidence: Evidence, machine: Machine = AMD) -> list[str]:
    found = next(line for line in rows(evidence, machine) if line.startswith(f"| {beginning}"))
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


@pytest.mark.parametrize(
    ("beginning", "cells"),
    [
        ("engine, MiniLM documents, of the GEMM", ["≥ 0.7", "≥ 0.85", "0.60", "**missed**"]),
        ("engine against sentence-transformers float32", ["≥ 5", "≥ 8", "5.00", "must"]),
        ("accuracy", ["≥ 0.9999", "≥ 0.99999", "0.9999500", "must"]),
        ("HTTP, documents, 64 connections, against vLLM", ["≥ 2", "≥ 3", "2.50", "must"]),
        ("HTTP, one query at a time, p50, against vLLM", ["≤ 0.3", "≤ 0.2", "0.25", "must"]),
        ("MiniLM, cold start", ["≤ 2", "≤ 1", "1.50", "must"]),
        ("MiniLM, memory", ["≤ 400", "≤ 250", "500", "**missed**"]),
    ],
)
def test_a_row_compares_what_was_measured_with_its_bounds(beginning: str, cells: list[str]) -> None:
    assert row(beginning, Evidence(engine(), serving())) == cells


def test_intel_with_amx_has_bounds_of_its_own() -> None:
    cells = row("engine, MiniLM documents, of the GEMM", Evidence(engine(INTEL), []), INTEL)
    assert cells == ["≥ 0.5", "≥ 0.7", "0.60", "must"]


def test_a_row_without_figures_says_so() -> None:
    lines = list(rows(Evidence(None, []), AMD))[2:]
    assert len(lines) == 17
    assert all("| not measured |" in line for line in lines)
