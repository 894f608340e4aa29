"""All tables of what was measured, in Markdown for RESULTS.md, and the plots: python -m benchmarks.report

Reads engine.json and serving*.json of the folder `results`, and writes PNGs beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.engine_tables import print_engine
from benchmarks.plots import save_plots
from benchmarks.results import RESULTS, Engine, Serving, load
from benchmarks.serving_tables import print_serving
from benchmarks.targets import Evidence, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    folder = parser.parse_args().folder
    serving = [load(path, Serving) for path in sorted(folder.glob("serving*.json"))]
    engine = load(folder / "engine.json", Engine) if (folder / "engine.json").is_file() else None
    measured = [*serving, *([engine] if engine else [])]
    if not measured:
        parser.error("nothing was measured yet: python -m benchmarks.engine, python -m benchmarks.serving")
    print("### What is to be reached\n")
    print("\n".join(rows(Evidence(engine, serving), measured[0].machine)))
    if engine is not None:
        print("\n### The engine alone\n")
        print_engine(engine)
    for result in serving:
        print("\n### Over HTTP, and libraries\n")
        print_serving(result)
    save_plots(folder, serving, engine)


if __name__ == "__main__":
    main()
