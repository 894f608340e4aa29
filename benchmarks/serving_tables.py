"""A serving result as Markdown tables."""

from __future__ import annotations

import statistics

from benchmarks.peers import OURS
from benchmarks.results import Figures, Serving, medians


def print_serving(result: Serving) -> None:
    figures = medians(result.runs)
    print(f"{result.machine}\n{result.date}: `{result.command}`")
    print("Contestants: " + ", ".join(f"{name} ({version})" for name, version in result.versions.items()))
    for name, reason in result.failures.items():
        print(f"No figures of {name}: {reason}")
    print()
    print_ratios(figures)
    print()
    print_figures(figures)
    print()
    print_starts(result)


def print_ratios(figures: dict[tuple[str, str], Figures]) -> None:
    """How many times as many texts a second our server embeds as each contestant."""
    workloads = list(dict.fromkeys(workload for _, workload in figures))
    peers = [peer for peer in dict.fromkeys(peer for peer, _ in figures) if peer != OURS]
    if not peers or not any((OURS, workload) in figures for workload in workloads):
        return
    print(f"{OURS}, texts a second, times those of:\n")
    print("| workload | " + " | ".join(peers) + " |")
    print("|---" * (len(peers) + 1) + "|")
    for workload in workloads:
        cells = [
            f"{figures[OURS, workload].texts_per_second / figures[peer, workload].texts_per_second:.2f}"
            if (peer, workload) in figures and (OURS, workload) in figures
            else ""
            for peer in peers
        ]
        print(f"| {workload} | " + " | ".join(cells) + " |")


def print_figures(figures: dict[tuple[str, str], Figures]) -> None:
    print("| workload | contestant | texts/s | tokens/s | p50 ms | p99 ms | cores used |")
    print("|---|---|---|---|---|---|---|")
    for workload in dict.fromkeys(workload for _, workload in figures):
        for (peer, _), f in ((key, f) for key, f in figures.items() if key[1] == workload):
            print(
                f"| {workload} | {peer} | {f.texts_per_second:.{1 if f.texts_per_second < 100 else 0}f} "
                f"| {f.tokens_per_second:.0f} | {f.p50_ms:.2f} | {f.p99_ms:.2f} | {f.cores_used:.2f} |"
            )


def print_starts(result: Serving) -> None:
    print(
        "| contestant | model | first answer, s | memory at first, MB | at the end | shared pages once | worst cosine |"
    )
    print("|---|---|---|---|---|---|---|")
    for peer, model in dict.fromkeys((start.peer, start.model) for start in result.starts):
        rounds = [start for start in result.starts if (start.peer, start.model) == (peer, model)]
        seconds = statistics.median(start.seconds_to_first_answer for start in rounds)
        ready = statistics.median(start.ready_resident_mb for start in rounds)
        loaded = statistics.median(start.loaded_resident_mb for start in rounds)
        proportional = statistics.median(start.loaded_proportional_mb for start in rounds)
        cosines = [start.worst_cosine for start in rounds if start.worst_cosine is not None]
        cosine = f"{min(cosines):.7f}" if cosines else ""
        print(f"| {peer} | {model} | {seconds:.2f} | {ready:.0f} | {loaded:.0f} | {proportional:.0f} | {cosine} |")
