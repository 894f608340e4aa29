from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from embedway.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"
EXAMPLES = re.findall(r"^```sh\n(embedway plan .*?)^```\n\n```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["embedway", "plan", *arguments])
    monkeypatch.setenv("COLUMNS", "150")
    return main()


@pytest.mark.parametrize(("command", "output"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_page_print_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, output: str
) -> None:
    assert run(monkeypatch, *shlex.split(command)[2:]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed[: len(output.splitlines())] == output.splitlines()
    assert "Assumed:" in printed


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 2


def test_json_has_plan_and_assumptions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tokens-per-second", "20000", "--documents", "1000000", "--machines", "2", "--price", "1", "--json")
    assert run(monkeypatch, *options) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["queries"] is None
    assert made["backlog"]["cost"] == pytest.approx(2 * made["backlog"]["hours"])
    assert made["machine"]["costs"]["per_token"] == pytest.approx(0.05)
    assert made["memory_bytes"]["all"] > made["memory_bytes"]["weights"]
    assert any("as given" in sentence for sentence in made["assumptions"])


def test_a_latency_that_no_machine_has_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--tokens-per-second", "1000", "--queries-per-second", "10", "--p99-ms", "5")
    assert run(monkeypatch, *options) == 1
    assert "more machines do not help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tokens-per-second", "1000"], "--documents: give it, or --queries-per-second"),
        (["--documents", "5", "--days", "1"], "--tokens-per-second: give it, --model or --bench"),
        (["--documents", "5", "--days", "1", "--tokens-per-second", "9", "--model", "m"], "one of them"),
        (["--documents", "5", "--tokens-per-second", "9"], "--days: --documents needs it or --machines"),
        (["--documents", "5", "--days", "1", "--machines", "1", "--tokens-per-second", "9"], "and not both"),
        (["--documents", "5", "--days", "1", "--bench", "/no/such/file"], "cannot read /no/such/file"),
        (["--documents", "0"], "--documents"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert run(monkeypatch, *options) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert printed.out == ""
