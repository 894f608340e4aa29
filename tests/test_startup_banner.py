from __future__ import annotations

import pytest

from embedway.api_keys import ApiKeys
from embedway.config import Settings
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.serve import ServedModel, Serving
from embedway.startup_banner import print_banner


def test_what_the_model_tells_of_itself_has_rows_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings()
    location = locate(settings.model_path)
    facts = {"dtype_choice": "bfloat16: 3.1x float32, cosine 0.99997", "dtype": "bfloat16"}
    engine = {**facts, "device": "cpu", "threads": "2", "load_seconds": "0.1"}
    spec = read_spec(location, name=settings.model_path)
    print_banner(Serving(settings, ApiKeys(), [ServedModel(settings, spec, location, engine)], "127.0.0.1", 30000))
    rows = [line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line.strip()]
    shown = {name: value.strip() for name, value in rows}
    assert shown["dtype choice"] == facts["dtype_choice"]
    assert shown["weights"] == "bfloat16 on cpu, 2 threads"
    assert "load seconds" not in shown
    assert shown["playground"] == "http://127.0.0.1:30000/"
