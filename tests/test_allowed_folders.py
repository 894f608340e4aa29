from __future__ import annotations

from pathlib import Path

import pytest

from embedway.allowed_folders import resolve_within


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder `a/b`, beside a folder that is closed."""
    (tmp_path / "open" / "a" / "b").mkdir(parents=True)
    (tmp_path / "closed").mkdir()
    (tmp_path / "open-too").mkdir()
    return tmp_path / "open"


@pytest.mark.parametrize("spelled", ["a/b", "a/./b", "a//b/", "a/b/../b", "../open/a/b"])
def test_what_is_inside_is_found_however_it_is_spelled(root: Path, spelled: str) -> None:
    assert resolve_within(f"{root}/{spelled}", [root]) == root / "a" / "b"


def test_the_root_itself_is_inside(root: Path) -> None:
    assert resolve_within(str(root), [root]) == root


def test_what_is_not_there_is_inside_all_the_same(root: Path) -> None:
    """Whether it exists is for others to say."""
    assert resolve_within(f"{root}/none", [root]) == root / "none"


@pytest.mark.parametrize("spelled", ["..", "../closed", "a/../../closed", "../open-too"])
def test_what_is_outside_is_not(root: Path, spelled: str) -> None:
    assert resolve_within(f"{root}/{spelled}", [root]) is None


@pytest.mark.parametrize("path", ["/", "/etc", "relative", "~/a", ""])
def test_a_path_that_does_not_begin_at_the_root_is_outside(root: Path, path: str) -> None:
    assert resolve_within(path, [root]) is None


def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    (root / "link").symlink_to("a")
    (root / "absolute").symlink_to(root / "a")
    (root / "twice").symlink_to("link")
    for name in ("link", "absolute", "twice"):
        assert resolve_within(f"{root}/{name}/b", [root]) == root / "a" / "b"


@pytest.mark.parametrize("target", ["../closed", "{root}/../closed", "/"])
def test_a_link_that_leaves_is_refused(root: Path, target: str) -> None:
    (root / "link").symlink_to(target.format(root=root))
    assert resolve_within(f"{root}/link", [root]) is None
    assert resolve_within(f"{root}/link/x", [root]) is None


def test_a_link_out_and_back_in_is_refused_unseen(root: Path) -> None:
    (root.parent / "closed" / "back").symlink_to(root / "a")
    (root / "link").symlink_to(root.parent / "closed" / "back")
    assert resolve_within(f"{root}/link", [root]) is None


def test_links_in_a_ring_are_refused(root: Path) -> None:
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    assert resolve_within(f"{root}/x", [root]) is None


def test_a_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    for spelled in (tmp_path / "alias" / "a", root / "a"):
        assert resolve_within(str(spelled), [tmp_path / "alias"]) == root / "a"


def test_any_of_several_roots_will_do(root: Path) -> None:
    assert resolve_within(f"{root.parent}/open-too", [root, root.parent / "open-too"]) == root.parent / "open-too"
    assert resolve_within(str(root), []) is None
