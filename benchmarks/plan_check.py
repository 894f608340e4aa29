"""`embedway plan`'s simulation beside what a server did: python -m benchmarks.plan_check closed.json open.json

The files are of `embedway bench --json`: the first with closed loads, which give the line of a batch, the others with
open ones. `--model NAME` takes the line from the model alone, timed here, with the plan's defaults for all else.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from embedway.planning.machine import Machine, measure, of_bench
from embedway.planning.simulation import simulate

SPREAD = 0.25
"""Of the made-up texts' tokens: half to one and a half times the mean, and two tokens that all have"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("closed", type=Path)
    parser.add_argument("open", type=Path, nargs="+")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    machine = Machine(of_bench(arguments.closed), "a bench", path_ms=0.0, shared_ms=0.0)
    if arguments.model:
        machine = Machine(measure(arguments.model), arguments.model)
    print(machine.costs)
    print("| offered/s | answered/s | simulated | p50 ms | simulated | p99 ms | simulated | busy, simulated |")
    print("|---|---|---|---|---|---|---|---|")
    for load in (load for path in arguments.open for load in json.loads(path.read_bytes())["loads"]):
        per_second = load["requests_per_second"]
        tokens = round(load["tokens_per_second"] / per_second)
        count = load["answered"] + load["refused"] + load["failed"]
        made = simulate(machine, rate=load["rate"], tokens=tokens, spread=SPREAD, num_requests=count)
        p50, p99 = (1000 * load["latency"][name] for name in ("p50", "p99"))
        answered = f"{per_second:.0f} | {made.answered_per_second:.0f}"
        latencies = f"{p50:.1f} | {made.p50_ms:.1f} | {p99:.1f} | {made.p99_ms:.1f}"
        print(f"| {load['rate']:g} | {answered} | {latencies} | {made.utilisation:.0%} |")


if __name__ == "__main__":
    main()
