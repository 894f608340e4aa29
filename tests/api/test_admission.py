from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.api.admission import BULK_SHARE, INTERACTIVE_TOKENS, USUAL_TOKENS, Admission, Limits, Permit
from embedway.config import load_settings
from embedway.errors import ServerOverloaded

LIMIT = 20_000
SHARE = LIMIT * BULK_SHARE


def admission(
    tokens: float | None = LIMIT, *, requests: float = math.inf, rate: float = 1000.0, share: float = 1.0
) -> Admission:
    return Admission(Limits(share, tokens, requests), lambda: rate, lambda request_class, cause: None)


def admitted(
    books: Admission, tokens: int, priority: int = 0, timeout: float | None = None, key_number: int = 0
) -> Permit | None:
    try:
        return books.admit(tokens, priority=priority, timeout=timeout, key_number=key_number)
    except ServerOverloaded:
        return None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(1, 30_000), st.integers(-1, 1)),
        st.tuples(st.just("end"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("settle"), st.integers(0, 20), st.integers(1, 9000)),
    ),
    max_size=60,
)


@given(steps)
def test_the_books_are_what_the_live_permits_hold_whatever_comes_and_goes(
    steps: list[tuple[str, int, int]],
) -> None:
    books, live = admission(), []
    for kind, number, other in steps:
        if kind == "admit":
            permit = admitted(books, number, other)
            live += [permit] if permit else []
        elif live and kind == "end":
            with live.pop(number % len(live)):
                pass
        elif live:
            live[number % len(live)].settle(other)
        for held in (books.interactive, books.bulk):
            own = [permit.tokens for permit in live if permit.held is held]
            assert (held.requests, held.tokens) == (len(own), sum(own))


@given(steps)
def test_no_class_passes_its_room_but_by_one_request_that_was_alone(steps: list[tuple[str, int, int]]) -> None:
    books, live = admission(requests=8), []
    for kind, number, other in steps:
        if kind == "admit" and (permit := admitted(books, number, other)):
            live.append(permit)
            bulk, interactive = books.bulk, books.interactive
            assert bulk.requests == 1 or bulk.tokens <= SHARE
            assert interactive.requests == 1 or interactive.tokens + min(bulk.tokens, SHARE) <= LIMIT
            assert bulk.requests <= max(1, 8 * BULK_SHARE)
            assert interactive.requests + bulk.requests <= 8 + 1
        elif live and kind == "end":
            with live.pop(number % len(live)):
                pass


@given(st.lists(st.integers(INTERACTIVE_TOKENS + 1, 300_000), max_size=60), st.integers(1, INTERACTIVE_TOKENS))
def test_bulk_never_takes_the_room_of_interactive_requests(bulk: list[int], tokens: int) -> None:
    books = admission()
    for size in bulk:
        admitted(books, size)
    num_admitted = 0
    while admitted(books, tokens):
        num_admitted += 1
    assert num_admitted >= (LIMIT - SHARE - USUAL_TOKENS) // tokens


@given(st.integers(1, 10**9), st.integers(-1, 1), st.integers(1, 10**9))
def test_an_idle_server_refuses_no_request(tokens: int, priority: int, limit: int) -> None:
    assert admitted(admission(limit, requests=1), tokens, priority, timeout=0.0)


def test_a_negative_priority_makes_a_small_request_bulk() -> None:
    books = admission()
    books.admit(1, priority=-1)
    assert (books.bulk.requests, books.interactive.requests) == (1, 0)


@given(steps, st.integers(1, 30_000), st.integers(-1, 1), st.none() | st.floats(0, 60), st.booleans())
def test_where_every_request_would_be_refused_each_one_is(
    steps: list[tuple[str, int, int]], tokens: int, priority: int, timeout: float | None, by_key: bool
) -> None:
    books = Admission(Limits(1.0, LIMIT, 8, by_key=by_key), lambda: 1000.0, lambda request_class, cause: None)
    for kind, number, other in steps:
        if kind == "admit":
            admitted(books, number, other)
    cause = books.cause_for_all(timeout)
    if cause is not None:
        assert not by_key
        assert books.interactive.requests
        assert admitted(books, tokens, priority, timeout) is None
    elif books.interactive.requests and not by_key:
        assert admitted(books, 1, 0, timeout)


def test_a_place_is_free_again_at_the_end_even_by_an_error() -> None:
    books = admission(requests=1)
    with pytest.raises(KeyError), books.admit(5):
        raise KeyError
    assert admitted(books, 5)
    assert not admitted(books, 5)


@pytest.mark.parametrize(
    ("ahead", "rate", "seconds"),
    [(10_000, 1000.0, 10), (10_000, 1e9, 1), (10_000, 1.0, 60), (10_000, math.inf, 1)],
)
def test_retry_after_is_how_long_those_before_it_take_from_a_second_to_a_minute(
    ahead: int, rate: float, seconds: int
) -> None:
    books = admission(rate=rate)
    books.admit(ahead)
    with pytest.raises(ServerOverloaded) as refused:
        books.admit(ahead)
    assert refused.value.retry_after_seconds == seconds


def test_a_request_that_would_likely_miss_its_deadline_is_refused_and_only_such_a_one() -> None:
    books = admission(rate=1000.0)
    books.admit(10_000)
    assert not admitted(books, 2000, timeout=15.0)
    assert admitted(books, 2000, timeout=17.0)
    assert admitted(books, 10, timeout=0.1)  # it passes the bulk


def test_without_a_limit_it_is_a_minute_s_work() -> None:
    books = admission(None, rate=1000.0)
    books.admit(44_000)
    assert admitted(books, 1100) is None
    assert admitted(books, 1000, priority=-1)
    assert books.max_tokens == 60_000


def test_each_of_several_processes_has_an_equal_part_of_what_is_set_and_of_what_is_done() -> None:
    settings = load_settings({"api_workers": 4, "max_queued_tokens": 4000, "max_queued_requests": 10})
    assert Limits.of(settings) == Limits(0.25, 1000, 3)
    assert admission(None, rate=1000.0, share=0.25).max_tokens == 15_000


def test_refusals_are_told_with_their_class_and_cause() -> None:
    told: list[tuple[str, str]] = []
    books = Admission(Limits(1.0, 2000, 3), lambda: 1.0, lambda *what: told.append(what))
    books.admit(1500)
    books.admit(400)
    for tokens, timeout in ((1500, None), (600, None), (50, 1.0)):
        admitted(books, tokens, timeout=timeout)
    books.admit(1)
    admitted(books, 1)
    assert told == [
        ("bulk", "tokens"),
        ("interactive", "tokens"),
        ("interactive", "deadline"),
        ("interactive", "requests"),
    ]


# ── between keys ──


def shared(*, tokens: float = LIMIT, requests: float = math.inf, rate: float = 1000.0) -> Admission:
    return Admission(Limits(1.0, tokens, requests, by_key=True), lambda: rate, lambda request_class, cause: None)


def fill(books: Admission, tokens: int, key_number: int) -> int:
    """Admit requests of a key until one is refused; the tokens that were admitted."""
    total = 0
    while admitted(books, tokens, key_number=key_number):
        total += tokens
    return total


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30_000)), max_size=60), st.integers(1, 30_000))
def test_no_key_is_shut_out_by_others(steps: list[tuple[int, int]], tokens: int) -> None:
    books = shared(requests=8)
    for key_number, size in steps:
        admitted(books, size, key_number=key_number)
    assert admitted(books, tokens, key_number=6)


@given(st.integers(1, 4), st.integers(1, INTERACTIVE_TOKENS), st.sampled_from([0, -1]))
def test_each_of_several_keys_finds_as_much_room_as_those_before_left_free(
    num_keys: int, tokens: int, priority: int
) -> None:
    books, room, others = shared(), LIMIT if priority == 0 else SHARE, 0
    for key_number in range(1, num_keys + 1):
        total = 0
        while admitted(books, tokens, priority, key_number=key_number):
            total += tokens
        assert total <= max(tokens, (room - others) / 2)
        assert total + tokens > (room - others) / 2
        others += total


def test_a_key_s_place_is_free_again_at_the_end() -> None:
    books = shared()
    with books.admit(5000, key_number=1) as permit:
        permit.settle(7500)
        assert not admitted(books, 5000, key_number=1)
    assert admitted(books, 5000, key_number=1)
    assert (books.bulk.requests, books.bulk.tokens) == (1, 5000)


def test_a_key_waits_for_its_own_work_and_as_much_of_each_other_s() -> None:
    books = shared(rate=1000.0)
    fill(books, 1000, key_number=1)
    books.admit(500, key_number=2)
    assert books.interactive.tokens == 10_500
    assert not admitted(books, 500, timeout=2.0, key_number=2)
    assert admitted(books, 500, timeout=3.0, key_number=2)
    assert books.wait_seconds("interactive", 1000, key_number=3) == 3.0
    assert books.wait_seconds("bulk", 9000, key_number=3) == 20.0
    books.admit(9000, key_number=2)
    with pytest.raises(ServerOverloaded) as refused:
        books.admit(9000, key_number=2)
    assert refused.value.retry_after_seconds == 20
