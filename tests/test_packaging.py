"""What is published: the sdist and the wheels hold what they must, and install where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from embedway.kernels.compile import LIBRARY_NAME
from embedway.version import __version__

ROOT = Path(__file__).parents[1]
COMPILER = """#!/bin/sh
# Makes what it is asked for, at once: only where the library goes is looked at here.
while [ "$1" != -o ]; do shift; done
echo made > "$2"
"""


def build(kind: str, source: Path, target: Path, **environment: str) -> Path:
    """`kind` is sdist or wheel; nothing is downloaded."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    subprocess.run(command, cwd=source, env={**os.environ, **environment}, check=True, capture_output=True)
    [made] = target.iterdir()
    return made


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"embedway-{__version__}"


@pytest.fixture(scope="module")
def pure_wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pip makes it of the sdist on a machine without a compiler."""
    return build("wheel", unpacked, tmp_path_factory.mktemp("pure"), CXX="no-such-compiler")


def test_the_sdist_has_sources_and_no_more(unpacked: Path) -> None:
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert {"LICENSE", "README.md", "PKG-INFO", "pyproject.toml", "hatch_build.py", "constraints.txt"} <= files
    assert {f"src/embedway/{name}" for name in ("cli.py", "py.typed", "kernels/src/encoder.cpp")} <= files
    assert {name.partition("/")[0] for name in files if "/" in name} == {"src"}
    assert not [name for name in files if name.endswith((".so", ".pyc"))]


def test_a_wheel_without_a_compiler_is_for_any_platform(pure_wheel: Path) -> None:
    assert pure_wheel.name == f"embedway-{__version__}-py3-none-any.whl"
    names = names_in(pure_wheel)
    assert {f"embedway/{name}" for name in ("py.typed", "playground/index.html", "kernels/src/encoder.cpp")} <= names
    assert f"embedway/kernels/{LIBRARY_NAME}" not in names


def test_a_wheel_with_the_library_is_for_one_platform_and_every_python(unpacked: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    wheel = build("wheel", unpacked, tmp_path / "wheels", CXX=str(compiler))
    assert wheel.name.startswith(f"embedway-{__version__}-py3-none-")
    assert not wheel.name.endswith("-any.whl")
    assert f"embedway/kernels/{LIBRARY_NAME}" in names_in(wheel)


def test_the_pure_wheel_runs_and_says_that_it_is_slower(pure_wheel: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*install, str(pure_wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert run(str(tmp_path / "bin" / "embedway"), "--version").stdout == f"embedway {__version__}\n"
    program = "import embedway; print(embedway.__file__, embedway.Embedder().embed(['a cat']).shape)"
    ended = run(sys.executable, "-c", program)
    assert ended.stdout == f"{tmp_path}/embedway/__init__.py (1, 384)\n"
    assert "without its native library" in ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_the_library_needs_nothing_but_libc() -> None:
    """No OpenMP beside torch's, and no C++ library that a platform may lack."""
    library = ROOT / "src" / "embedway" / "kernels" / LIBRARY_NAME
    if not library.exists():
        pytest.skip("the native library is not built")
    listed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    needed = {line.partition("[")[2].rstrip("]") for line in listed.splitlines() if "NEEDED" in line}
    assert needed
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
