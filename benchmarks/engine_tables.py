"""An engine result as Markdown tables."""

from __future__ import annotations

from benchmarks.results import Engine, medians
from benchmarks.roofline import roofline_tflops


def print_engine(result: Engine) -> None:
    print(f"{result.machine}\n{result.date}: `{result.command}`\n")
    print_gemms(result)
    print()
    print_runs(result)
    print("\n| contestant | worst cosine to sentence-transformers float32 |\n|---|---|")
    for peer, cosine in result.worst_cosine.items():
        print(f"| {peer} | {cosine:.7f} |")


def print_gemms(result: Engine) -> None:
    """The best round of each: a disturbed one says nothing of the machine."""
    best: dict[tuple[str, str, str, str], float] = {}
    for g in result.gemms:
        key = (g.model, g.dtype, g.source, g.shapes)
        best[key] = max(best.get(key, 0.0), g.tflops)
    print("| shapes of | type | library | shapes | TFLOP/s |\n|---|---|---|---|---|")
    for key, tflops in best.items():
        print("| " + " | ".join(key) + f" | {tflops:.3f} |")


def print_runs(result: Engine) -> None:
    print("| workload | contestant | type | tokens/s | p50 ms a batch | of the roofline | cores used |")
    print("|---|---|---|---|---|---|---|")
    for (peer, workload), f in sorted(medians(result.runs).items(), key=lambda item: item[0][1].split()[:2]):
        model = workload.split()[0]
        dtype = result.dtypes.get(f"{peer} {model}", "")
        share = ""
        if dtype and workload in result.flops_per_token:
            roofline = roofline_tflops(result.gemms, model, dtype) * 1e12 / result.flops_per_token[workload]
            share = f"{f.tokens_per_second / roofline:.2f}"
        print(
            f"| {workload} | {peer} | {dtype} | {f.tokens_per_second:.0f} | {f.p50_ms:.2f} | {share} "
            f"| {f.cores_used:.2f} |"
        )
