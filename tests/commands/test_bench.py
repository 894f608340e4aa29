"""Command lines of `embedway bench` that cannot be followed; `server/test_bench.py` has those that are."""

from __future__ import annotations

import pytest

from embedway.cli import main


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["ftp://host"], "no http://"),
        (["--rate", "5", "--concurrency", "5"], "--rate: is of no use with --concurrency"),
        (["--rate", "many"], "--rate: 'many' must be numbers above 0"),
        (["--concurrency", "1,0"], "--concurrency: '1,0' must be numbers above 0"),
        (["--concurrency", "1,nan"], "--concurrency: '1,nan' must be numbers above 0"),
        (["--concurrency", "1.5"], "--concurrency: '1.5' has a part"),
        (["--encoding-format", "hex"], "--encoding-format"),
        (["--input", "/no/such/file"], "/no/such/file"),
        (["--plot", "made.txt"], "--plot"),
        (["--duration", "0"], "--duration"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    monkeypatch.setattr("sys.argv", ["embedway", "bench", *options])
    assert main() == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert printed.out == ""
