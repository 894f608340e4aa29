from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedway.errors import InvalidSetting
from embedway.load_test.measurement import Load, Measurement
from embedway.load_test.plot import check_can_plot, plot


def measured(load: Load, *latencies: float) -> Measurement:
    return Measurement(load, 1.0, np.array(latencies), None, {}, 0.0)


@pytest.mark.parametrize("num_loads", [1, 3])
def test_a_png_is_written_whatever_was_measured(tmp_path: Path, num_loads: int) -> None:
    path = tmp_path / "made.png"
    check_can_plot(path)
    loads = [Load(concurrency=2**i) for i in range(num_loads)]
    plot([measured(loads[0], 0.01, 0.02), *(measured(load) for load in loads[1:])], path, "a title")
    with Image.open(path) as image:
        assert image.width > image.height


@pytest.mark.parametrize(("name", "says"), [("made.txt", "must end in .png"), ("no/made.png", "there is no folder")])
def test_a_file_that_cannot_be_written_is_said_beforehand(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(InvalidSetting, match=f"--plot: .*{says}"):
        check_can_plot(tmp_path / name)


def test_without_matplotlib_it_is_said_what_to_install() -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from embedway.load_test.plot import check_can_plot\n"
        "check_can_plot(Path('made.png'))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "--plot: needs matplotlib, which is not installed: pip install matplotlib" in ended.stderr
