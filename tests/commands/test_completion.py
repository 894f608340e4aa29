"""What a shell gets when it asks for completions, as the script that Typer writes for it does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fake_hub import write_cache

if TYPE_CHECKING:
    from pathlib import Path


def completions(words: str, **environment: str) -> list[str]:
    """For the last of the words, which may be empty."""
    asking = {"_EMBEDWAY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "embedway"]
    ended = subprocess.run(
        command, env={**os.environ, **asking, **environment}, capture_output=True, text=True, check=True
    )
    return ended.stdout.split()


def test_commands_and_flags_are_completed() -> None:
    assert completions("embedway ") == ["serve", "check", "embed", "bench", "models", "plan"]
    assert "--concurrency" in completions("embedway bench --conc")


def test_a_setting_s_choices_are_completed() -> None:
    assert completions("embedway serve --pooling m") == ["mean", "max", "mean_sqrt_len_tokens"]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_models_that_are_here_are_completed(tmp_path: Path, command: str) -> None:
    write_cache(tmp_path, "me/mine", {"config.json": "{}"})
    assert completions(f"embedway {command} m", HF_HUB_CACHE=str(tmp_path)) == ["me/mine"]


def test_the_shell_s_script_is_printed() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "embedway", "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_EMBEDWAY_COMPLETE=complete_bash" in ended.stdout
