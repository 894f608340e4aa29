"""Adapters over HTTP, with the fake model: who gets which, and who may load what."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fake_model import REFUSED, FakeAdapter, write_fake_adapter

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ADMIN = {"Authorization": "Bearer secret"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the adapters `one` and `two`."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    for name in ("one", "two"):
        write_fake_adapter(folder / name, name)
    return folder


async def embed(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    fields = {"model": MODEL, "input": ["a", "b"], "normalize": False, **body}
    return await client.post("/v1/embeddings", json=fields)


async def shifts(client: httpx.AsyncClient, **body: Any) -> list[float]:
    """What the adapters have added to the base model's vectors."""
    answer = await embed(client, **body)
    base = await embed(client, model=(await client.get("/v1/models")).json()["data"][0]["id"])
    assert answer.status_code == 200, answer.text
    got, expected = (np.array([item["embedding"] for item in a.json()["data"]]) for a in (answer, base))
    assert (np.ptp(got - expected, axis=1) == 0).all()
    return [float(row[0]) for row in got - expected]


async def load(client: httpx.AsyncClient, name: str, folder: Path, **fields: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(folder), **fields}
    return await client.post("/load_lora_adapter", json=body, headers=ADMIN)


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()["error"]
    return response.status_code, body["code"], body["param"]


ONE, TWO = (float(FakeAdapter.of(text).shift) for text in ("one", "two"))


async def test_every_way_to_name_an_adapter(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret", lora_root=[root]) as client:
        for name in ("one", "two"):
            loaded = await load(client, name, root / name)
            assert loaded.status_code == 200, loaded.text
        assert loaded.json() == {
            "success": True,
            "error_message": "",
            "loaded_adapters": {"one": str(root / "one"), "two": str(root / "two")},
        }
        assert await shifts(client, model=f"{MODEL}:one") == [ONE, ONE]
        assert await shifts(client, lora_path="two") == [TWO, TWO]
        assert await shifts(client, lora_path=["two", "one"]) == [TWO, ONE]
        assert await shifts(client, lora_path=[None, "one"]) == [0, ONE]
        assert await shifts(client, lora_path=[None, None]) == [0, 0]
        assert await shifts(client, model=f"{MODEL}:one", lora_path=["two", "two"]) == [ONE, ONE]


async def test_encode_takes_lora_path_too(connect: Connect, root: Path) -> None:
    async with connect(lora_root=[root]) as client:
        body = {"text": ["a", "b"], "lora_path": [None, str(root / "one")]}
        adapted, base = [(await client.post("/encode", json=b)).json() for b in (body, {"text": ["a", "b"]})]
        assert adapted[0]["embedding"] == base[0]["embedding"]
        assert adapted[1]["embedding"] != base[1]["embedding"]


async def test_a_folder_is_loaded_on_first_use_and_kept(connect: Connect, root: Path) -> None:
    async with connect(lora_root=[root]) as client:
        assert await shifts(client, lora_path=str(root / "one")) == [ONE, ONE]
        (root / "one" / "adapter").write_text("something else")
        assert await shifts(client, lora_path=f"{root}/./two/../one") == [ONE, ONE]
        assert await shifts(client, model=f"{MODEL}:{root}/one") == [ONE, ONE]


async def test_the_documented_example_loads_a_folder_under_the_model_s_name(connect: Connect, root: Path) -> None:
    async with connect(lora_root=[root]) as client:
        both = {"model": f"{MODEL}:mine", "lora_path": str(root / "one")}
        assert await shifts(client, **both) == [ONE, ONE]
        assert await shifts(client, **{**both, "lora_path": str(root / "two")}) == [ONE, ONE]
        assert await shifts(client, model=f"{MODEL}:mine") == [ONE, ONE]


async def test_a_served_name_with_a_colon_is_taken_whole(connect: Connect, root: Path) -> None:
    names = ["base", "base:one"]
    async with connect(served_model_name=names, admin_api_key="secret") as client:
        await load(client, "one", root / "one")
        whole, adapted = await embed(client, model="base:one"), await embed(client, model="base:one:one")
        assert whole.json()["data"] == (await embed(client, model="base")).json()["data"]
        assert adapted.json()["data"] != whole.json()["data"]
        assert adapted.json()["model"] == "base:one:one"


async def test_adapters_are_listed_and_each_listed_id_works(connect: Connect, root: Path) -> None:
    async with connect(served_model_name=["base"], admin_api_key="secret") as client:
        await load(client, "one", root / "one")
        cards = (await client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("base", None), ("base:one", "base")]
        assert cards[1]["root"] == str(root / "one")
        for card in cards:
            assert (await client.get(f"/v1/models/{card['id']}")).json() == card
            assert (await embed(client, model=card["id"])).status_code == 200
        while not (info := (await client.get("/server_info")).json())["engines"][0]["adapters"]:
            await asyncio.sleep(0.01)  # the engine's newest status is some milliseconds old
        assert [ref["name"] for ref in info["adapters"]] == ["one"]
        assert info["engines"][0]["adapters"] == info["adapters"]
        assert "admin_api_key" not in info["settings"]
        assert error(await client.get("/v1/models/base:two")) == (404, "adapter_not_found", "model")


async def test_a_listed_id_works_where_served_names_and_adapters_have_colons(connect: Connect, root: Path) -> None:
    async with connect(served_model_name=["a", "a:b"], admin_api_key="secret") as client:
        await load(client, "b:c", root / "one")
        [_, _, card] = (await client.get("/v1/models")).json()["data"]
        assert (card["id"], card["parent"]) == ("a:b:b:c", "a:b")
        assert await shifts(client, model=card["id"]) == [ONE, ONE]


async def test_a_reloaded_name_has_its_new_content_at_once(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret") as client:
        await load(client, "mine", root / "one")
        assert await shifts(client, model=f"{MODEL}:mine") == [ONE, ONE]
        (root / "one" / "adapter").write_text("two")
        await load(client, "mine", root / "one")
        assert await shifts(client, model=f"{MODEL}:mine") == [TWO, TWO]


async def test_an_unloaded_adapter_is_gone_and_others_of_its_content_stay(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret") as client:
        await load(client, "one", root / "one")
        await load(client, "same", root / "one")
        answer = await client.post("/unload_lora_adapter", json={"lora_name": "one"}, headers=ADMIN)
        assert answer.json()["loaded_adapters"] == {"same": str(root / "one")}
        assert error(await embed(client, lora_path="one")) == (404, "adapter_not_found", "lora_path")
        assert await shifts(client, lora_path="same") == [ONE, ONE]
        again = await client.post("/unload_lora_adapter", json={"lora_name": "one"}, headers=ADMIN)
        assert error(again) == (404, "adapter_not_found", "lora_name")


async def test_vllm_s_routes_answer_as_vllm(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret") as client:
        body = {"lora_name": "one", "lora_path": str(root / "one")}
        loaded = await client.post("/v1/load_lora_adapter", json=body, headers=ADMIN)
        assert loaded.text == "Success: LoRA adapter 'one' added successfully."
        unloaded = await client.post("/v1/unload_lora_adapter", json=body, headers=ADMIN)
        assert unloaded.text == "Success: LoRA adapter 'one' removed successfully."


ROUTES = ["/load_lora_adapter", "/unload_lora_adapter", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"]


@pytest.mark.parametrize("path", ROUTES)
async def test_admin_routes_are_closed_without_an_admin_key(connect: Connect, path: str) -> None:
    async with connect() as client:
        assert error(await client.post(path, json={}, headers=ADMIN)) == (403, "admin_only", None)


@pytest.mark.parametrize("path", ROUTES)
async def test_admin_routes_need_the_admin_s_key_and_user_routes_do_not(connect: Connect, path: str) -> None:
    async with connect(admin_api_key="secret") as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert error(await client.post(path, json={}, headers=headers)) == (401, "invalid_api_key", None)
        assert (await embed(client)).status_code == 200
        assert error(await client.post(path, json={}, headers=ADMIN)) == (400, "missing_field", "lora_name")


async def test_a_user_s_key_opens_no_admin_route_and_the_admin_s_opens_all(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret", api_key=["user"]) as client:
        body = {"lora_name": "one", "lora_path": str(root / "one")}
        as_user = await client.post("/load_lora_adapter", json=body, headers={"Authorization": "Bearer user"})
        assert error(as_user) == (401, "invalid_api_key", None)
        assert (await client.post("/load_lora_adapter", json=body, headers=ADMIN)).status_code == 200
        for key, status in (("user", 200), ("secret", 200), ("other", 401)):
            response = await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert response.status_code == status


async def test_unknown_adapters_are_404_and_close_names_are_listed(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret") as client:
        unknown = await embed(client, lora_path="legal")
        assert error(unknown) == (404, "adapter_not_found", "lora_path")
        await load(client, "legal-en", root / "one")
        unknown = await embed(client, lora_path=[None, "legal"])
        assert error(unknown) == (404, "adapter_not_found", "lora_path[1]")
        assert "Did you mean 'legal-en'?" in unknown.json()["error"]["message"]
        unknown = await embed(client, model=f"{MODEL}:something", lora_path="legal-en")
        assert error(unknown) == (404, "adapter_not_found", "model")
        assert "Loaded: 'legal-en'" in unknown.json()["error"]["message"]
        assert error(await embed(client, model="other:legal-en")) == (404, "model_not_found", "model")


@pytest.mark.parametrize("path", ["/etc", "{root}/../closed", "{root}/link", "../closed", "~/adapters"])
async def test_folders_outside_the_root_are_403(connect: Connect, root: Path, path: str) -> None:
    write_fake_adapter(root.parent / "closed", "closed")
    (root / "link").symlink_to(root.parent / "closed")
    async with connect(lora_root=[root]) as client:
        for body in ({}, {"model": f"{MODEL}:mine"}):
            response = await embed(client, lora_path=path.format(root=root), **body)
            assert error(response) == (403, "path_not_allowed", "lora_path")
        assert (await client.get("/v1/models")).json()["data"][1:] == []


async def test_without_a_root_no_folder_may_be_named(connect: Connect, root: Path) -> None:
    async with connect() as client:
        response = await embed(client, lora_path=str(root / "one"))
        assert error(response) == (403, "path_not_allowed", "lora_path")
        assert "--lora-root" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("lora_path", "code", "param"),
    [
        (["one"], "invalid_value", "lora_path"),
        (["one", None, None], "invalid_value", "lora_path"),
        ([], "invalid_value", "lora_path"),
        (5, "invalid_type", "lora_path"),
        ({"one": 1}, "invalid_type", "lora_path"),
        ([None, 5], "invalid_type", "lora_path[1]"),
        ([None, ["one"]], "invalid_type", "lora_path[1]"),
        ("", "empty_input", "lora_path"),
        ([None, " "], "empty_input", "lora_path[1]"),
    ],
)
@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:one"])
async def test_lora_path_is_checked_strictly(
    client: httpx.AsyncClient, lora_path: object, code: str, param: str, model: str
) -> None:
    assert error(await embed(client, model=model, lora_path=lora_path)) == (400, code, param)


async def test_a_refused_adapter_is_400_at_the_load_and_changes_nothing(connect: Connect, root: Path) -> None:
    write_fake_adapter(root / "bad", REFUSED)
    (root / "empty").mkdir()
    async with connect(admin_api_key="secret", lora_root=[root]) as client:
        await load(client, "mine", root / "one")
        for folder in ("bad", "empty"):
            assert error(await load(client, "mine", root / folder)) == (400, "adapter_refused", "lora_path")
            response = await embed(client, lora_path=[None, str(root / folder)])
            assert error(response) == (400, "adapter_refused", "lora_path[1]")
            assert str(root / folder) not in json.dumps(response.json()).replace(str(root / folder) + "'", "", 1)
        assert await shifts(client, model=f"{MODEL}:mine") == [ONE, ONE]
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == [MODEL, f"{MODEL}:mine"]
        missing = await embed(client, lora_path=str(root / "none"))
        assert error(missing) == (404, "adapter_not_found", "lora_path")


@pytest.mark.parametrize("name", ["", " one", "a\nb", "x" * 513])
async def test_a_name_must_be_fit_to_be_listed(connect: Connect, root: Path, name: str) -> None:
    async with connect(admin_api_key="secret") as client:
        assert error(await load(client, name, root / "one"))[:2] == (400, "invalid_value")


async def test_adapters_do_not_change_what_is_counted(connect: Connect, root: Path) -> None:
    async with connect(admin_api_key="secret") as client:
        await load(client, "one", root / "one")
        base, adapted = await embed(client), await embed(client, model=f"{MODEL}:one")
        assert adapted.json()["usage"] == base.json()["usage"]


async def test_a_request_may_not_take_a_name_that_the_admin_gave_meanwhile(connect: Connect, root: Path) -> None:
    """Both load at once: whoever is last, the admin's stays."""
    async with connect(admin_api_key="secret", lora_root=[root]) as client:
        loaded, asked = await asyncio.gather(
            load(client, "mine", root / "one"), embed(client, model=f"{MODEL}:mine", lora_path=str(root / "two"))
        )
        assert (loaded.status_code, asked.status_code) == (200, 200)
        assert await shifts(client, model=f"{MODEL}:mine") == [ONE, ONE]


@pytest.mark.parametrize("name", ["x" * 1_000_000, "{root}/" + "a/" * 100_000, "{root}/a\0b"])
async def test_what_can_be_no_adapter_is_refused_before_any_work(connect: Connect, root: Path, name: str) -> None:
    async with connect(admin_api_key="secret", lora_root=[root]) as client:
        await load(client, "one", root / "one")
        spelled = name.replace("{root}", str(root))
        assert error(await embed(client, lora_path=spelled)) == (400, "invalid_value", "lora_path")
        assert error(await embed(client, lora_path=[None, spelled])) == (400, "invalid_value", "lora_path[1]")
        assert error(await embed(client, model=f"{MODEL}:{spelled}")) == (400, "invalid_value", "model")


async def test_a_file_that_is_a_link_out_of_the_root_is_403(connect: Connect, root: Path) -> None:
    (root.parent / "secret.json").write_text('{"peft_type": "a secret"}')
    (root / "one" / "adapter_config.json").symlink_to(root.parent / "secret.json")
    async with connect(lora_root=[root]) as client:
        response = await embed(client, lora_path=str(root / "one"))
        assert error(response) == (403, "path_not_allowed", "lora_path")


async def test_one_folder_for_all_items_is_a_folder_for_the_model_s_name_too(connect: Connect, root: Path) -> None:
    async with connect(lora_root=[root]) as client:
        folder = str(root / "one")
        assert await shifts(client, model=f"{MODEL}:mine", lora_path=[folder, folder]) == [ONE, ONE]
