"""A body reads the same in a worker as on the event loop, value for value and error for error."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedway.api import body_worker
from embedway.api.body_forms import EMBEDDING, FORMS, BodyForm, BodyRules, ReadBody
from embedway.api.body_messages import Parsed, ParsedItems, read_items, write_frame
from embedway.api.body_reader import parsed_here
from embedway.api.body_workers import BodyWorkers, read_body_of, read_outcome
from embedway.errors import EmbedwayError, TooMuchToParse
from embedway.inputs.sequences import InputOptions, SequenceMaker
from embedway.inputs.token_ids import check_token_ids
from embedway.inputs.tokenizer import Truncate
from embedway.model_spec import ModelSpec

RULES = BodyRules(max_items=5, longest_text=1000, max_length=50, max_request_tokens=100)

# ── bodies ──

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**65) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(max_size=8) | st.sampled_from(["", " ", "\u2028", "é\U0001f600", "data:image/png;base64,AAAA"])
IDS = st.lists(st.integers(-3, 30000) | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)]), max_size=6)
PART = (
    st.just({"text": "a"})
    | st.fixed_dictionaries(
        {}, optional={"text": TEXT, "image": TEXT, "video": TEXT, "type": st.sampled_from(["text", "image_url"])}
    )
    | st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, TEXT)
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT | st.lists(PART, max_size=2)}
)
INPUT = TEXT | IDS | PART | st.lists(TEXT, max_size=7) | st.lists(IDS, max_size=7) | st.lists(PART, max_size=3) | JUNK
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["input", "text", "input_ids", "prompt", "tokens"], INPUT),
    "messages": st.lists(MESSAGE, max_size=3) | JUNK,
    **dict.fromkeys(["image_data", "video_data"], TEXT | st.lists(TEXT | st.none(), max_size=3) | JUNK),
    **dict.fromkeys(["model", "lora_name"], st.just("m") | JUNK),
    **dict.fromkeys(["dimensions", "priority", "timeout_ms", "normalize", "user", "rid", "lora_path", "other"], JUNK),
    "encoding_format": st.sampled_from(["float", "base64", "hex"]),
    "truncate": st.sampled_from(["none", "end", "start"]) | JUNK,
}


@st.composite
def bodies(draw: st.DrawFn, form: BodyForm[Any]) -> dict[str, Any]:
    """Half of them with nothing but what the route needs."""
    needed = {"model": st.just("m"), **dict.fromkeys(form.item_fields[:1], INPUT)}
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=3)) if draw(st.booleans()) else []
    return draw(st.fixed_dictionaries({**needed, **{name: VALUES[name] for name in names}}))


@st.composite
def forms_and_bodies(draw: st.DrawFn) -> tuple[BodyForm[Any], bytes]:
    """JSON in any spelling, with keys that come twice, and perhaps broken."""
    form = draw(st.sampled_from(list(FORMS.values())))
    return form, draw(raw_bodies(form))


@st.composite
def raw_bodies(draw: st.DrawFn, form: BodyForm[Any]) -> bytes:
    several = [draw(bodies(form)) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    ascii_only = draw(st.booleans())
    members = [json.dumps(body, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogatepass") for body in several]
    raw = b"{" + b", ".join(filter(None, members)) + b"}"
    fault = draw(st.sampled_from(["none", "none", "none", "none", "cut", "insert", "wrap"]))
    place = draw(st.integers(0, len(raw)))
    if fault == "cut":
        return raw[:place]
    if fault == "insert":
        junk = draw(st.sampled_from([b"\xff", b"\x00", b'"', b",", b"]", b"NaN", b"\\ud800", b"1e999"]))
        return raw[:place] + junk + raw[place:]
    return b"[" + raw + b"]" if fault == "wrap" else raw


# ── both ways ──


def in_worker(raw: bytes, form: BodyForm[Any], rules: BodyRules) -> ReadBody[Any]:
    """What comes of it, through the bytes that a worker sends, without a process."""
    sent = io.BytesIO()
    message, blobs = body_worker.answer(raw, form, rules)
    write_frame(sent.write, message, blobs)
    sent.seek(0)
    return read_body_of(form, *read_outcome(sent))


def seen(read: Callable[[], ReadBody[Any]], form: BodyForm[Any]) -> object:
    """All that a route may see of a body."""
    try:
        body = read()
    except EmbedwayError as error:
        return [type(error), error.message, error.param]
    sent = form.kind.model_fields.keys() - {*form.item_fields, *body_worker.UNREAD_FIELDS}
    fields = [(name, repr(body_worker.shallow(getattr(body.fields, name)))) for name in sorted(sent)]
    if not form.item_fields:
        return fields
    try:
        items, instruction = body.items()
    except EmbedwayError as error:
        return [fields, type(error), error.message, error.param]
    ids = [list(ids[:]) for ids in items.token_ids]
    names = [items.param(i) for i in range(len(items))]
    return [fields, items.texts, ids, items.field, items.is_single, items.size, names, items.media, instruction]


@given(forms_and_bodies())
def test_it_reads_the_same(form_and_body: tuple[BodyForm[Any], bytes]) -> None:
    form, raw = form_and_body
    assert seen(lambda: in_worker(raw, form, RULES), form) == seen(lambda: parsed_here(raw, form, RULES), form)


def test_the_instruction_and_the_prompt_are_sent() -> None:
    chat = [{"role": "system", "content": "é\U0001f600" * 100_000}, {"role": "user", "content": "a"}]
    for fields in ({"messages": chat}, {"input": "a", "prompt": "é" * 300_000}, {"input": {}, "prompt": "p"}):
        raw = orjson.dumps({"model": "m", **fields})
        rules = BodyRules(max_items=5, longest_text=10**6, max_length=50, max_request_tokens=100)
        assert seen(lambda: in_worker(raw, EMBEDDING, rules), EMBEDDING) == seen(  # noqa: B023 - called at once
            lambda: parsed_here(raw, EMBEDDING, rules),  # noqa: B023
            EMBEDDING,
        )
        assert in_worker(raw, EMBEDDING, rules).fields.prompt == fields.get("prompt")


@pytest.mark.parametrize("field", ["rid", "lora_path", "input", "other"])
def test_it_reads_the_same_however_deep(field: str) -> None:
    raw = b'{"model":"m","input":"a","%s":%s}' % (field.encode(), b"[" * 1000 + b"]" * 1000)
    assert seen(lambda: in_worker(raw, EMBEDDING, RULES), EMBEDDING) == seen(
        lambda: parsed_here(raw, EMBEDDING, RULES), EMBEDDING
    )


@given(
    st.lists(st.integers(-3, 40) | st.sampled_from([2**63, 2**64 - 1, -(2**63)]), min_size=1, max_size=300),
    st.sampled_from(["none", "end", "start"]),
)
def test_ids_are_refused_or_cut_the_same_where_only_their_ends_were_sent(ids: list[int], truncate: Truncate) -> None:
    raw = orjson.dumps({"model": "m", "input": ids})
    [read] = in_worker(raw, EMBEDDING, RULES).items()[0].token_ids

    def outcome(given_ids: Any) -> object:
        try:
            return check_token_ids(
                given_ids, param="input", vocab_size=38, max_length=50, truncate=truncate, leading=[1, 2], trailing=[3]
            ).tolist()
        except EmbedwayError as error:
            return type(error), error.message, error.param

    assert outcome(read) == outcome(ids)


@pytest.mark.parametrize("truncate", ["none", "end", "start"])
@pytest.mark.parametrize("long", ["input", "prompt"])
@pytest.mark.parametrize("word", ["many words ", "x", "字"])
def test_a_text_gives_the_same_tokens_where_only_its_ends_were_sent(
    spec: ModelSpec, truncate: Truncate, long: str, word: str
) -> None:
    maker = SequenceMaker.load(spec, max_request_tokens=300_000)
    rules = BodyRules(5, maker.tokenizer.longest_read(spec.max_length), spec.max_length, 300_000)
    texts = {"input": "a text", "prompt": "query: ", long: "first " + word * (2_200_000 // len(word)) + " last"}
    raw = orjson.dumps({"model": "m", **texts})

    def outcome(body: ReadBody[Any]) -> object:
        items, _ = body.items()
        try:
            return maker.make(items, InputOptions(prompt=body.fields.prompt, truncate=truncate)).token_ids.tolist()
        except EmbedwayError as error:
            return type(error), error.message, error.param

    sent = in_worker(raw, EMBEDDING, rules)
    assert len(sent.items()[0].texts[0]) + len(sent.fields.prompt) < 2_200_000
    assert outcome(sent) == outcome(parsed_here(raw, EMBEDDING, rules))


# ── real processes ──


@pytest.fixture
def workers() -> Iterator[BodyWorkers]:
    workers = BodyWorkers()
    yield workers
    workers.close()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "embedway.api.body_worker" in child.cmdline()]


async def texts_of(workers: BodyWorkers, *texts: str) -> list[str]:
    raw = orjson.dumps({"model": "m", "input": texts})
    half = len(raw) // 2
    return list((await workers.parse([raw[:half], raw[half:]], EMBEDDING, RULES)).items()[0].texts)


async def test_a_worker_is_started_for_the_first_body_and_kept(workers: BodyWorkers) -> None:
    assert not children()
    assert await texts_of(workers, "a" * 900, "é") == ["a" * 900, "é"]
    [first] = children()
    assert await texts_of(workers, "b") == ["b"]
    assert children() == [first]
    workers.close()
    assert not children()


async def test_bodies_that_come_at_once_are_not_mixed_up(workers: BodyWorkers) -> None:
    read = await asyncio.gather(*(texts_of(workers, f"text {i}") for i in range(20)))
    assert read == [[f"text {i}"] for i in range(20)]
    assert len(children()) <= 2


async def test_one_that_was_killed_while_idle_costs_no_request(workers: BodyWorkers) -> None:
    await texts_of(workers, "a")
    [first] = children()
    first.kill()
    assert await texts_of(workers, "b") == ["b"]
    assert first not in children()


async def test_a_body_whose_worker_dies_is_parsed_once_more_and_then_given_up(workers: BodyWorkers) -> None:
    await texts_of(workers, "a")
    [first] = children()
    first.suspend()
    waiting = asyncio.create_task(texts_of(workers, "b"))
    while workers._idle:
        await asyncio.sleep(0.001)
    first.kill()
    assert await waiting == ["b"]


async def test_the_next_body_gets_a_new_worker_where_one_is_lost_twice(
    workers: BodyWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("embedway.api.body_workers.COMMAND", ("false",))
        with pytest.raises(TooMuchToParse):
            await texts_of(workers, "a")
    assert await texts_of(workers, "b") == ["b"]


def test_what_is_sent_of_a_large_body_is_bounded() -> None:
    raw = orjson.dumps({"model": "m", "input": list(range(10_000))})
    message, blobs = body_worker.answer(raw, EMBEDDING, RULES)
    assert isinstance(message, Parsed)
    assert isinstance(message.items, ParsedItems)
    items, _ = read_items(message.items, io.BytesIO(b"".join(blobs)))
    assert (items.size, len(b"".join(blobs))) == (10_000, 2 * RULES.max_length * 8)
    with pytest.raises(AssertionError):
        np.array(items.token_ids[0], np.int64)
