from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import httpx

from embedway.api.playground_route import FOLDER, page_files

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


def policy_of(response: httpx.Response) -> dict[str, list[str]]:
    directives = response.headers["content-security-policy"].split("; ")
    return {name: values for name, *values in map(str.split, directives)}


async def test_the_files_come_with_their_types_and_nothing_may_come_from_elsewhere(client: httpx.AsyncClient) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for path in page_files():
        response = await client.get(path)
        assert response.status_code == 200
        kind = "html" if path == "/" else path.rpartition(".")[2]
        assert response.headers["content-type"].partition(";")[0] == kinds[kind]
        policy = policy_of(response)
        assert policy["default-src"] == ["'none'"]
        assert policy["frame-ancestors"] == ["'none'"]
        assert {source for name in ("script-src", "style-src", "connect-src") for source in policy[name]} == {"'self'"}
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


async def test_every_file_is_used_and_every_file_that_is_named_is_there(client: httpx.AsyncClient) -> None:
    texts = [(await client.get(path)).text for path in page_files()]
    named = {name for text in texts for name in re.findall(r'"(?:playground|\.)/([\w.]+)"', text)}
    assert {f"/playground/{name}" for name in named} == set(page_files()) - {"/"}
    assert {path.name for path in FOLDER.iterdir()} == named | {"index.html"}


async def test_a_file_that_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/playground/main.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"another", W/{first.headers["etag"]}', "*"):
        again = await client.get("/playground/main.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    changed = await client.get("/playground/main.js", headers={"If-None-Match": '"another"'})
    assert changed.content == first.content


async def test_a_head_request_has_the_headers_alone(client: httpx.AsyncClient) -> None:
    response = await client.head("/")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) == len((await client.get("/")).content)


async def test_there_is_nothing_beside_the_files(client: httpx.AsyncClient) -> None:
    for path in ("/playground/", "/playground/nothing.js", "/playground/..%2fcli.py", "/index.html"):
        assert (await client.get(path)).status_code == 404


async def test_the_metrics_count_all_files_as_one_route(client: httpx.AsyncClient) -> None:
    for path in page_files():
        await client.get(path)
    counted = re.findall(r'route="(/playground.*?)",status="200"', (await client.get("/metrics")).text)
    assert counted == ["/playground/{name}"]


async def test_the_files_are_open_and_all_else_still_needs_the_key(connect: Connect) -> None:
    async with connect(api_key=["first"]) as client:
        for path in page_files():
            assert (await client.get(path)).status_code == 200
        for path in ("/v1/models", "/model_info", "/playground/nothing.js", "/playground"):
            assert (await client.get(path)).status_code == 401


async def test_it_can_be_closed(connect: Connect) -> None:
    async with connect(playground=False) as client:
        for path in page_files():
            response = await client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "route_not_found")


async def test_another_name_of_this_machine_is_refused_here_too(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.get("/", headers={"Host": "rebound.example"})).status_code == 421
