from __future__ import annotations

import itertools
import socket
import struct
import time
from pathlib import Path

import orjson
from benchmarks.event_loop import Measured, text_bodies
from benchmarks.loop_probe.sitecustomize import RESULT, Probe


def test_a_wait_is_measured_by_the_clock_and_a_hold_by_cpu_time(tmp_path: Path) -> None:
    path = tmp_path / "probe"
    Path(f"{path}.out").write_bytes(bytes(RESULT.size))
    probe = Probe(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ticks:
        ticks.sendto(struct.pack("<d", time.monotonic() - 5), str(path))
    probe.read()
    probe.close()
    wait, hold, turn = RESULT.unpack(Path(f"{path}.out").read_bytes())
    assert wait >= 5
    assert 0 < turn <= hold < 5


def test_bodies_are_json_that_names_its_model() -> None:
    for _, body in itertools.islice(text_bodies(), 4):
        assert orjson.loads(body)["model"] == "model"


def test_a_row_has_the_longest_of_all_rounds() -> None:
    measured = Measured([0.001, 0.003], [0.002, 0.001], [0.0005, 0.0004], [0.001] * 100, {"200"})
    assert str(measured) == "0.5 | 2.0 | 3.0 | 1.0 | 1.0 | 200"
