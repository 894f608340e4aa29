from __future__ import annotations

import asyncio
import itertools
import json
import socket

import pytest

from embeddings_answers import DIMENSION, embed, vectors_for
from embedway.errors import InvalidSetting, NotMeasurable
from embedway.load_test.measurement import Load, Measurement
from embedway.load_test.sweep import Plan, Sweep, measure
from embedway.load_test.target import read_target
from loopback_server import Answer, Asked, LoopbackServer, always, response, serving


def plan_for(port: int, *, model: str | None = "m", loads: tuple[Load, ...] = (), seconds: float = 0.05) -> Plan:
    return Plan(
        target=read_target(f"http://127.0.0.1:{port}", "the-key"),
        model=model,
        texts=itertools.cycle(["a"]),
        items_per_request=1,
        encoding_format="base64",
        seconds=seconds,
        timeout=30,
        loads=loads,
    )


async def sweep(
    answer: Answer, *, model: str | None = "m", loads: tuple[Load, ...] = ()
) -> tuple[Sweep, LoopbackServer]:
    async with serving(answer) as server:
        return await measure(plan_for(server.port, model=model, loads=loads), lambda _: None), server


async def test_the_loads_that_were_asked_for_are_measured_in_their_order() -> None:
    seen: list[Measurement] = []
    loads = (Load(concurrency=3), Load(concurrency=1), Load(rate=100.0))
    async with serving(embed) as server:
        made = await measure(plan_for(server.port, loads=loads), seen.append)
    assert [one.load for one in made.measurements] == list(loads)
    assert made.measurements == seen
    assert (made.model, made.dimension, made.is_saturated) == ("m", DIMENSION, False)
    assert all(one.answered and not one.failures for one in made.measurements)


async def test_a_sweep_doubles_until_the_throughput_grows_no_more() -> None:
    """A server that does one request at a time has its best throughput at once, or with two."""
    one_at_a_time = asyncio.Lock()

    async def serial(asked: Asked, writer: asyncio.StreamWriter) -> None:
        async with one_at_a_time:
            await asyncio.sleep(0.01)
            writer.write(vectors_for(asked))

    made, _ = await sweep(serial)
    concurrencies = [one.load.concurrency for one in made.measurements]
    assert made.is_saturated
    assert concurrencies == [2**i for i in range(len(concurrencies))]
    assert 2 <= len(concurrencies) <= 6


async def test_a_sweep_ends_where_nothing_is_answered() -> None:
    answers = itertools.chain([200], itertools.repeat(500))

    async def fail_from_the_second_on(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(vectors_for(asked) if next(answers) == 200 else response(b"{}", status="500 Internal"))

    made, _ = await sweep(fail_from_the_second_on)
    assert [one.answered for one in made.measurements] == [0]


async def test_the_model_is_the_first_that_the_server_lists_and_the_key_goes_with_every_request() -> None:
    made, server = await sweep(embed, model=None, loads=(Load(concurrency=1),))
    assert made.model == "the-model"
    assert server.asked[0].target == "/v1/models"
    assert json.loads(server.asked[1].body)["model"] == "the-model"
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer the-key"}


async def test_a_server_without_a_list_of_models_wants_a_name() -> None:
    with pytest.raises(InvalidSetting, match=r"--model: must be given.*404: nothing here"):
        await sweep(always(response(b'{"detail": "nothing here"}', status="404 Not Found")), model=None)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (response(b'{"error": {"message": "no key"}}', status="401 Unauthorized"), "it answers 401: no key$"),
        (response(b"<p>\x1b[31mred", status="502 Bad Gateway"), r"it answers 502: <p> \[31mred$"),
        (response(b"x" * 9999, status="500 No"), "it answers 500: x{300}…$"),
        (response(b'{"data": []}'), "200, but not with vectors"),
        (response(b"hello"), "200, but not with vectors"),
        (response(b'{"data": [{"embedding": "@@@"}]}'), "200, but not with vectors"),
    ],
)
async def test_a_server_that_gives_no_vector_is_not_measured(answer: bytes, says: str) -> None:
    with pytest.raises(NotMeasurable, match=says):
        await sweep(always(answer))


async def test_a_server_that_is_not_there_is_not_measured() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NotMeasurable, match="cannot connect"):
            await measure(plan_for(taken.getsockname()[1]), lambda _: None)


async def test_vectors_as_base64_and_as_numbers_have_their_length() -> None:
    encoded = response(json.dumps({"data": [{"embedding": "AAAAAAAAgD8="}]}).encode())
    made, _ = await sweep(always(encoded), loads=(Load(concurrency=1),))
    assert made.dimension == 2
