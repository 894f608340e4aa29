from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from embedway.errors import MediaNotAllowed, MediaTooLarge, MediaUnreadable, RequestError
from embedway.media.local_files import read_local_file
from media_fetching import media_rules


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "open" / "sub").mkdir(parents=True)
    (tmp_path / "open" / "cat.png").write_bytes(b"a cat")
    (tmp_path / "secret").write_bytes(b"a secret")
    return tmp_path / "open"


def read(path: str | Path, *roots: Path, max_bytes: int = 100) -> bytes:
    rules = media_rules(roots=roots, max_bytes=max_bytes)
    return read_local_file(str(path), rules, kind="image", param="input[1].image")


def refusal(path: str | Path, *roots: Path) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(path, *roots)
    assert "input[1].image" in caught.value.message
    assert str(path) not in caught.value.message
    return caught.value


def test_a_file_in_an_open_folder_is_read(root: Path) -> None:
    assert read(root / "cat.png", root) == b"a cat"
    assert read(f"{root}/sub/../cat.png", root.parent / "other", root) == b"a cat"


def test_a_link_within_the_folder_is_followed(root: Path) -> None:
    (root / "link").symlink_to("cat.png")
    assert read(root / "link", root) == b"a cat"


def test_without_an_open_folder_no_file_is_read(root: Path) -> None:
    there, not_there = refusal(root / "cat.png"), refusal(root / "none")
    assert isinstance(there, MediaNotAllowed)
    assert "--allowed-local-media-path" in there.message
    assert there.message == not_there.message


def test_outside_nothing_tells_what_is_there(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "dangling").symlink_to(root.parent / "none")
    (root / "folder").symlink_to(root.parent)
    outside = [root.parent / "secret", root.parent / "none", f"{root}/../secret", f"{root}/../none", "/etc/passwd", "/"]
    outside += [root / "link", root / "dangling", root / "folder" / "secret", root / "folder" / "none"]
    refusals = [refusal(path, root) for path in outside]
    assert {type(refused) for refused in refusals} == {MediaNotAllowed}
    assert len({refused.message for refused in refusals}) == 1


def test_what_is_no_regular_file_is_refused_at_once(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
        for name in ("pipe", "socket", "sub"):
            assert isinstance(refusal(root / name, root), MediaUnreadable)
    assert isinstance(refusal("/dev/zero", Path("/dev")), MediaUnreadable)


def test_a_missing_file_in_an_open_folder_is_told(root: Path) -> None:
    assert "no such file" in refusal(root / "none", root).message
    assert isinstance(refusal(root / ("x" * 300), root), MediaUnreadable)
    assert isinstance(refusal(root / "cat.png" / "x", root), MediaUnreadable)


def test_a_link_that_takes_the_file_s_place_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "swapped").symlink_to(root.parent / "secret")
    monkeypatch.setattr("embedway.media.local_files.resolve_within", lambda path, roots: Path(path))
    assert isinstance(refusal(root / "swapped", root), MediaUnreadable)


def test_the_limit_holds_to_the_byte(root: Path) -> None:
    assert read(root / "cat.png", root, max_bytes=5) == b"a cat"
    with pytest.raises(MediaTooLarge, match="--max-media-mb"):
        read(root / "cat.png", root, max_bytes=4)
