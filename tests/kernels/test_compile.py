"""Compiling the library: what a compiler does not know is left out, and a failure says why."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from embedway.kernels import compile as kernels
from embedway.kernels.library import load_library
from embedway.kernels.native import instruction_sets

CHECK = Path(__file__).with_name("kernel_check.cpp")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1", "-O1")

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, kernels.COMPILERS)), reason="there is no C++ compiler on this machine"
)


@needs_compiler
def test_the_library_agrees_with_double_precision_under_the_sanitizers(tmp_path: Path) -> None:
    """The best instruction set that this machine has, AMX in plain C++ where it has no other, and what runs anywhere,
    on random shapes and lengths, one model and one attention a type. `make kernels-check` takes many, with all of them.
    """
    library = tmp_path / "libchecked.so"
    best = instruction_sets()[:1]
    targets = {name: flags for name, flags in kernels.targets_of().items() if name in (*best, "baseline")}
    if best == ("avx512_bf16",):
        targets = {**kernels.EMULATED_AMX, **targets}
    assert set(kernels.compile_library(library, extra_flags=SANITIZERS, targets=targets)) == set(targets)
    program, compiler = tmp_path / "kernel_check", kernels.find_compiler(None)
    # The check itself is not instrumented: the library is, and the linked runtime guards what either allocates.
    made = [*compiler, "-std=c++17", "-O1", f"-I{kernels.SOURCES}", "-c", str(CHECK), "-o", f"{program}.o"]
    subprocess.run(made, check=True)
    linked = [*compiler, *SANITIZERS, f"{program}.o", str(library), f"-Wl,-rpath,{tmp_path}", "-o", str(program)]
    subprocess.run(linked, check=True)
    ended = subprocess.run([str(program), "1"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in targets:
        assert f"{name}: 0 failures" in ended.stdout


@needs_compiler
def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(tmp_path: Path) -> None:
    targets = {"future": ["-mfuture"], "baseline": ()}
    assert kernels.compile_library(tmp_path / "lib.so", extra_flags=["-O0"], targets=targets) == ("baseline",)
    assert load_library(tmp_path / "lib.so") is not None


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    with pytest.raises(kernels.CompileError, match="no-such-compiler"):
        kernels.compile_library(tmp_path / "lib.so", compiler="no-such-compiler")
    assert not (tmp_path / "lib.so").exists()


def test_a_library_that_is_missing_or_broken_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_library(tmp_path / "none.so") is None
    assert not caplog.records
    (tmp_path / "broken.so").write_text("not a library")
    assert load_library(tmp_path / "broken.so") is None
    assert "cannot be loaded" in caplog.text


@needs_compiler
@pytest.mark.parametrize(("target", "flags"), kernels.targets_of().items())
def test_no_code_of_one_instruction_set_can_stand_in_for_another(
    target: str, flags: Sequence[str], tmp_path: Path
) -> None:
    """A weak symbol outside the target's namespace would be one copy for all, made for one machine's instructions."""
    made = tmp_path / "target.o"
    command = [*kernels.find_compiler(None), *kernels.FLAGS, "-O1", *flags, f"-DEMBEDWAY_TARGET={target}"]
    subprocess.run([*command, "-c", str(kernels.SOURCES / "target.cpp"), "-o", str(made)], check=True)
    symbols = subprocess.run(["nm", "-C", str(made)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert any(f"embedway::{target}::" in line for line in symbols)
    assert [line for line in symbols if re.search(r" W ", line) and f"embedway::{target}::" not in line] == []
