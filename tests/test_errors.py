"""Errors as other processes get them."""

from __future__ import annotations

import pickle

from embedway.errors import RowFailed, ServerOverloaded


def test_an_error_stays_itself_when_it_is_pickled() -> None:
    error = pickle.loads(pickle.dumps(RowFailed(name="a.jsonl", row=7, reason="it is empty")))
    assert isinstance(error, RowFailed)
    assert str(error) == error.message == "a.jsonl, row 7: it is empty (--fail-fast)"
    overloaded = pickle.loads(pickle.dumps(ServerOverloaded(problem="the queue is full", seconds=3)))
    assert (type(overloaded), overloaded.retry_after_seconds) == (ServerOverloaded, 3)
