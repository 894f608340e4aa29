from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from embedway.observability.shared_counters import SharedCounters, clear


def test_what_is_counted_is_read_at_once_by_another_process(tmp_path: Path) -> None:
    counters = SharedCounters(tmp_path)
    first, second = counters.slots("first", "second")
    counters.values[first] += 2
    counters.values[second] += 0.5
    program = (
        "from pathlib import Path; import json, sys; from embedway.observability.shared_counters import SharedCounters;"
        "own = SharedCounters(Path(sys.argv[1])); own.values[own.slots('second')[0]] += 1;"
        "print(json.dumps(own.totals()))"
    )
    shown = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == {"first": 2.0, "second": 1.5}
    assert counters.totals() == {"first": 2.0, "second": 1.5}  # of the process that has ended, too


def test_counters_of_a_dead_process_can_be_taken_out(tmp_path: Path) -> None:
    counters = SharedCounters(tmp_path)
    for slot in counters.slots("kept", "cleared"):
        counters.values[slot] = 7
    clear(tmp_path, os.getpid(), "cleared".__eq__)
    assert counters.totals() == {"kept": 7.0, "cleared": 0.0}


def test_without_a_folder_a_process_counts_for_itself() -> None:
    counters = SharedCounters(None)
    [slot] = counters.slots("one")
    counters.values[slot] += 1
    assert counters.totals() == {"one": 1.0}
