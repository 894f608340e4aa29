from __future__ import annotations

import pytest

from embedway.adapter_ref import AdapterRef
from embedway.engine.adapter_store import AdapterStore, LoadedAdapter
from embedway.errors import AdapterRefused


def loaded(name: str, content: str | None = None, *, pinned: bool = False) -> LoadedAdapter:
    """An adapter whose content is `content`, by default its name; what is prepared is the content, too."""
    return LoadedAdapter(AdapterRef(name, f"/{name}", content or name, pinned), f"prepared {content or name}")


def store_of(*adapters: LoadedAdapter, max_loaded: int | None = None) -> AdapterStore:
    store = AdapterStore(max_loaded)
    for adapter in adapters:
        store.add(adapter)
    return store


def names(store: AdapterStore) -> set[str]:
    return {ref.name for ref in store.refs()}


def test_the_adapter_that_was_unused_for_longest_makes_room() -> None:
    store = store_of(loaded("a"), loaded("b"), max_loaded=2)
    assert store.get("a") == "prepared a"
    store.add(loaded("c"))
    assert names(store) == {"a", "c"}
    assert store.get("b") is None


def test_to_load_an_adapter_again_is_a_use_of_it() -> None:
    store = store_of(loaded("a"), loaded("b"), loaded("a"), loaded("c"), max_loaded=2)
    assert names(store) == {"a", "c"}


def test_a_pinned_adapter_is_not_evicted() -> None:
    store = store_of(loaded("a", pinned=True), loaded("b"), loaded("c"), loaded("d"), max_loaded=2)
    assert names(store) == {"a", "d"}


def test_where_all_are_pinned_another_one_is_refused_and_nothing_changes() -> None:
    store = store_of(loaded("a", pinned=True), loaded("b", pinned=True), max_loaded=2)
    with pytest.raises(AdapterRefused, match=r"'c'.* all 2 adapters .* are pinned \(--max-loaded-loras\)"):
        store.add(loaded("c"))
    assert names(store) == {"a", "b"}
    assert not store.add(loaded("a", pinned=True))  # it needs no room


def test_without_a_limit_all_stay() -> None:
    assert len(names(store_of(*(loaded(str(i)) for i in range(100))))) == 100


def test_one_content_under_two_names_is_there_once_and_stays_until_both_are_unloaded() -> None:
    store = store_of(loaded("a", "same"), loaded("b", "same", pinned=True), loaded("c"), max_loaded=2)
    assert names(store) == {"a", "b", "c"}
    store.discard("b", "same")
    assert names(store) == {"a", "c"}
    store.discard("a", "same")
    assert store.get("same") is None


def test_a_name_with_new_content_leaves_the_old_one_to_those_who_hold_its_ref() -> None:
    store = store_of(loaded("a", "old"), loaded("a", "new"))
    assert (store.get("old"), store.get("new")) == ("prepared old", "prepared new")
    store.discard("a", "old")
    assert [ref.content_hash for ref in store.refs()] == ["new"]


def test_adding_says_whether_it_was_there() -> None:
    store = AdapterStore()
    added = [store.add(adapter) for adapter in (loaded("a"), loaded("a"), loaded("b", "a"), loaded("a", "new"))]
    assert added == [True, False, True, True]


def test_unloading_what_is_not_there_changes_nothing() -> None:
    store = store_of(loaded("a"))
    store.discard("a", "another content")
    store.discard("b", "a")
    assert names(store) == {"a"}
