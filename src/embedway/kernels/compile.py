"""Compile the native library: `python -m embedway.kernels.compile`. Needs g++ 12 or clang++ 14, or newer (or $CXX).

`target.cpp` is compiled once for each instruction set of the architecture; an older compiler that does not know one
leaves it out. The build hook (`hatch_build.py`) runs this when the package is installed; a failure there is no failure
of the installation. Imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).with_name("src")
LIBRARY_NAME = "libembedway_kernels.so"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-fvisibility-inlines-hidden"),
    # errno and traps hinder vector code and are not looked at; -ffast-math is not given: results stay exact
    *("-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"),
    "-Wno-maybe-uninitialized",  # GCC's own AVX-512 headers, with GCC 12
)
WITH_THE_CPP_LIBRARY = ("-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL")
LINK_FLAGS = ("-shared", "-pthread", *(() if sys.platform == "darwin" else WITH_THE_CPP_LIBRARY))
"""The C++ library goes in, but on macOS, which has it: the file needs nothing but libc, and brings no OpenMP."""

AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
AVX512_BF16 = (*AVX512, "-mavx512bf16")
X86_64: Mapping[str, Sequence[str]] = {
    "amx": (*AVX512_BF16, "-mamx-tile", "-mamx-bf16"),
    "avx512_bf16": AVX512_BF16,
    "avx512": AVX512,
    "avx2": AVX2,
    "baseline": (),
}
TARGETS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "x86_64": X86_64,
    "amd64": X86_64,
    "aarch64": {"neon_bf16": ("-march=armv8.2-a+bf16",), "baseline": ()},
    "arm64": {"neon_bf16": ("-march=armv8.2-a+bf16",), "baseline": ()},
}
"""By architecture: each instruction set and its flags, best first; the last one runs on any machine."""
EMULATED_AMX = {"amx_emulated": (*AVX512_BF16, "-DEMBEDWAY_EMULATE_AMX")}
"""For tests: the AMX code on machines without AMX."""
COMMON = ("encoder.cpp", "chunks.cpp", "adapter.cpp", "c_api.cpp", "thread_pool.cpp", "dispatch.cpp")


class CompileError(Exception):
    """The library could not be compiled; the message says why."""


def compile_library(
    output: Path,
    *,
    compiler: str | None = None,
    extra_flags: Sequence[str] = (),
    targets: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, ...]:
    """Write the library to `output`; return the instruction sets that are in it. Raises CompileError.

    `targets`: those to compile, by default this machine's.
    """
    command = [*find_compiler(compiler), *FLAGS, *extra_flags]
    if targets is None:
        targets = targets_of()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = {name: Path(folder, f"{name}.o") for name in targets}

        def compile_target(name: str) -> str | None:
            flags = [*targets[name], f"-DEMBEDWAY_TARGET={name}"]
            return run([*command, *flags, "-c", str(SOURCES / "target.cpp"), "-o", str(objects[name])])

        problems = dict(zip(targets, pool.map(compile_target, targets), strict=True))
        known = tuple(name for name, problem in problems.items() if problem is None)
        if "baseline" not in known:
            raise CompileError(problems["baseline"])
        listed = "-DEMBEDWAY_TARGETS=" + " ".join(f"X({name})" for name in known)

        def compile_common(name: str) -> str | None:
            return run([*command, listed, "-c", str(SOURCES / name), "-o", str(Path(folder, name).with_suffix(".o"))])

        for problem in pool.map(compile_common, COMMON):
            if problem is not None:
                raise CompileError(problem)
        parts = [*(objects[name] for name in known), *(Path(folder, name).with_suffix(".o") for name in COMMON)]
        made = Path(folder, LIBRARY_NAME)
        if problem := run([*command, *LINK_FLAGS, *map(str, parts), "-o", str(made)]):
            raise CompileError(problem)
        # never write into a library that a running process has mapped
        staged = output.with_name(f"{output.name}.{os.getpid()}")
        shutil.copyfile(made, staged)
        staged.replace(output)
    return known


def targets_of(machine: str | None = None) -> Mapping[str, Sequence[str]]:
    """Each instruction set of `machine`'s architecture, by default this one's, and its flags, best first."""
    return TARGETS.get((machine or platform.machine()).lower(), {"baseline": ()})


def find_compiler(wanted: str | None) -> list[str]:
    """The compiler's command; `wanted` or $CXX may hold arguments too. Raises CompileError where there is none."""
    if chosen := wanted or os.environ.get("CXX"):
        return shlex.split(chosen)
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise CompileError(f"no C++ compiler was found ({', '.join(COMPILERS)}, or $CXX)")


def run(command: Sequence[str]) -> str | None:
    """Run the compiler; None, or the first error that it reports."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the compiler
    except OSError as error:
        return f"{command[0]} cannot be run: {error}"
    if ended.returncode == 0:
        return None
    lines = ended.stderr.strip().splitlines() or [f"{command[0]} ended with status {ended.returncode}"]
    return next((line for line in lines if "error" in line), lines[-1])


def main() -> int:
    """Compile beside this file, or to --output; 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m embedway.kernels.compile", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(LIBRARY_NAME))
    parser.add_argument("--emulate-amx", action="store_true", help="add AMX in plain C++, for tests")
    parser.add_argument("--machine", help="architecture to compile for, with --compiler: for example aarch64")
    parser.add_argument("--compiler", help="by default $CXX, or the first of " + ", ".join(COMPILERS))
    parser.add_argument("--flag", action="append", default=[], help="further compiler flag; several may be given")
    given = parser.parse_args()
    try:
        known = compile_library(
            given.output,
            compiler=given.compiler,
            extra_flags=given.flag,
            targets={**(EMULATED_AMX if given.emulate_amx else {}), **targets_of(given.machine)},
        )
    except CompileError as error:
        sys.stderr.write(f"the native library could not be compiled: {error}\n")
        return 1
    sys.stdout.write(f"{given.output}: {', '.join(known)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
