"""The playground of servers that want a key, have prompts, adapters and shorter vectors, or read images."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from peft import LoraConfig
from playwright.sync_api import Browser, Page, expect

from checkpoints import tiny_checkpoint
from chromium import chromium, watched_page
from dual_checkpoints import dual_checkpoint
from encoded_media import png
from peft_folders import peft_folder
from playground_page import HALF_A_DIGIT, heat_values, number
from running_server import RunningServer

KEY = "a secret"
PROMPTS = {"query": "search query: ", "document": "passage: "}
TEXTS = ["a cat", "a kitten", "a rocket"]
PICTURES = [png(60, 80, seed=seed) for seed in range(3)]
GIVE_FILE = """(area, [event, name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  area.dispatchEvent(
    event === "drop"
      ? new DragEvent("drop", { ...options, dataTransfer: transfer })
      : new ClipboardEvent("paste", { ...options, clipboardData: transfer }),
  );
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def post(server: RunningServer, **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def vectors_of(answer: Any) -> np.ndarray:
    return np.array([entry["embedding"] for entry in answer["data"]])


def embed(server: RunningServer, **body: Any) -> np.ndarray:
    return vectors_of(post(server, **body))


def requests_of(page: Page) -> list[Any]:
    """The bodies of all that is sent from now on."""
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    return sent


@pytest.fixture(scope="class")
def guarded(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("playground")
    folder = tiny_checkpoint("bert", root / "tiny", prompts=PROMPTS, config={"initializer_range": 0.1})
    adapter = peft_folder(folder, root / "adapter", LoraConfig(r=4, target_modules=["query", "value"]))
    flags = ["--served-model-name", "tiny", "--matryoshka", "--lora-paths", f"legal={adapter}"]
    with RunningServer(str(folder), *flags, environment={"EMBEDWAY_API_KEY": KEY}) as server:
        yield server


@pytest.fixture
def page(browser: Browser, guarded: RunningServer) -> Iterator[Page]:
    """Past the key."""
    with watched_page(browser, guarded.url, expects="status of 401") as page:
        page.locator("#key").fill(KEY)
        page.locator("#key").press("Enter")
        expect(page.locator("#embed")).to_be_enabled()
        page.locator("#texts").fill("\n".join(TEXTS))
        yield page


class TestAServerWithAKey:
    def test_the_key_is_asked_for_and_kept_for_the_session_only(self, browser: Browser, guarded: RunningServer) -> None:
        refused = httpx.get(f"{guarded.url}/v1/models", headers={"Authorization": "Bearer wrong"}).json()["error"]
        with watched_page(browser, guarded.url, expects="status of 401") as page:
            expect(page.locator("#key")).to_be_focused()
            expect(page.get_by_role("alert")).to_be_hidden()
            page.locator("#key").fill("wrong")
            page.locator("#key").press("Enter")
            expect(page.get_by_role("alert")).to_contain_text(refused["message"])
            page.locator("#key").fill(KEY)
            page.locator("#key").press("Enter")
            expect(page.locator("#key-form")).to_be_hidden()
            page.locator("#embed").click()
            page.locator(".heat").wait_for()
            assert page.evaluate("Object.values(sessionStorage)") == [KEY]
            assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
            assert KEY not in page.content()
            expect(page.locator("#code")).to_contain_text('-H "Authorization: Bearer $EMBEDWAY_API_KEY"')
            page.get_by_role("button", name="Forget API key").click()
            expect(page.locator("#key")).to_be_focused()
            assert page.evaluate("sessionStorage.length") == 0

    def test_an_adapter_is_a_model_to_choose(self, page: Page, guarded: RunningServer) -> None:
        assert page.locator("#model option").all_inner_texts() == ["tiny", "tiny:legal"]
        shown = []
        for model in ("tiny", "tiny:legal"):
            page.locator("#model").select_option(model)
            with page.expect_response("**/v1/embeddings"):
                page.locator("#embed").click()
            expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
            shown.append(heat_values(page))
            vectors = embed(guarded, model=model, input=TEXTS)
            np.testing.assert_allclose(shown[-1], vectors @ vectors.T, atol=HALF_A_DIGIT)
        assert np.abs(shown[0] - shown[1]).max() > 0.01

    def test_a_search_uses_the_model_s_prompts_unless_told_otherwise(self, page: Page, guarded: RunningServer) -> None:
        sent = requests_of(page)
        page.locator("#tab-search").click()
        page.locator("#query").fill("a cat")
        page.locator("#query").press("Enter")
        page.locator(".ranking").wait_for()
        assert [body["input_type"] for body in sent] == ["document", "query"]
        documents = embed(guarded, model="tiny", input=TEXTS, input_type="document")
        scores = documents @ embed(guarded, model="tiny", input="a cat", input_type="query")[0]
        shown = [number(text) for text in page.locator(".score").all_inner_texts()]
        np.testing.assert_allclose(shown, sorted(scores, reverse=True), atol=0.000051)
        page.locator(".options summary").click()
        page.locator("#prompt").select_option("none")
        page.locator("#query").press("Enter")
        expect(page.locator(".ranking li").first).to_contain_text("1.0000")
        assert [(body["prompt"], "input_type" in body) for body in sent[2:]] == [("", False)] * 2

    def test_options_are_sent_and_an_unset_one_is_not(self, page: Page) -> None:
        sent = requests_of(page)
        page.locator(".options summary").click()
        choices = {"prompt": "name:query", "encoding": "base64", "dtype": "ubinary", "truncate": "start"}
        with page.expect_response("**/v1/embeddings"):
            page.locator("#embed").click()
        for field, value in choices.items():
            page.locator(f"#{field}").select_option(value)
        page.locator("#dimensions").fill("8")
        expect(page.locator("#options-set")).to_have_text("5 set")
        page.locator("#embed").click()
        expect(page.locator("#stat-dimensions")).to_have_text("8")
        common = {"model": "tiny", "input": TEXTS}
        assert sent[0] == {**common, "encoding_format": "float"}
        options = {"prompt_name": "query", "dimensions": 8, "output_dtype": "ubinary", "truncate": "start"}
        assert sent[1] == {**common, "encoding_format": "base64", **options}

    def test_every_type_and_encoding_is_read(self, page: Page, guarded: RunningServer) -> None:
        exact = embed(guarded, model="tiny", input=TEXTS)
        for dtype in ("float32", "int8", "uint8", "binary", "ubinary"):
            read = [
                page.evaluate(
                    "async ([all, dtype]) => {"
                    " const { decode } = await import('/playground/vectors.js');"
                    " return all.map((entry) => [...decode(entry.embedding, dtype)]); }",
                    [
                        post(guarded, model="tiny", input=TEXTS, output_dtype=dtype, encoding_format=encoding)["data"],
                        dtype,
                    ],
                )
                for encoding in ("float", "base64")
            ]
            np.testing.assert_allclose(read[0], read[1], atol=1e-7)
            got = np.array(read[0])
            if "binary" in dtype:
                np.testing.assert_array_equal(got, np.where(exact > 0, 1, -1))
            else:
                cosines = (got * exact).sum(axis=1) / np.linalg.norm(got, axis=1)
                assert cosines.min() > 0.999


@pytest.fixture(scope="class")
def clip(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = dual_checkpoint("clip", tmp_path_factory.mktemp("playground") / "images")
    with RunningServer(str(folder), "--dtype", "float32", "--served-model-name", "images") as server:
        yield server


class TestAModelThatReadsImages:
    def test_images_are_chosen_dropped_and_pasted(self, browser: Browser, clip: RunningServer) -> None:
        [chosen, dropped, pasted] = [base64.b64encode(data).decode() for data in PICTURES]
        with watched_page(browser, clip.url) as page:
            expect(page.locator("#images img")).to_have_count(3)  # the sample's
            for _ in range(3):
                page.locator("#images button").first.click()
            expect(page.locator("#add-images")).to_be_focused()
            page.locator("#texts").fill("a cat")
            page.locator("#image-files").set_input_files(
                {"name": "chosen.png", "mimeType": "image/png", "buffer": PICTURES[0]}
            )
            expect(page.get_by_role("img", name="chosen.png")).to_be_visible()
            page.locator("#editor").evaluate(GIVE_FILE, ["drop", "dropped.png", dropped])
            expect(page.get_by_role("img", name="dropped.png")).to_be_visible()
            page.locator("#texts").evaluate(GIVE_FILE, ["paste", "pasted.png", pasted])
            expect(page.get_by_role("img", name="pasted.png")).to_be_visible()
            page.locator("#embed").click()
            items = [
                {"text": "a cat"},
                *({"image": f"data:image/png;base64,{data}"} for data in (chosen, dropped, pasted)),
            ]
            vectors = embed(clip, model="images", input=items)
            np.testing.assert_allclose(heat_values(page), vectors @ vectors.T, atol=HALF_A_DIGIT)
            expect(page.locator("#code")).to_contain_text("…")
            page.locator("#tab-search").click()
            page.locator("#query").fill("a cat")
            page.locator("#query").press("Enter")
            expect(page.locator(".ranking li").first).to_contain_text("1.0000")
            expect(page.locator(".ranking img")).to_have_count(3)

    def test_a_file_that_is_no_image_is_the_server_s_to_refuse(self, browser: Browser, clip: RunningServer) -> None:
        with watched_page(browser, clip.url, expects="status of 400|ERR_INVALID|Failed to load") as page:
            expect(page.locator("#embed")).to_be_enabled()
            page.locator("#image-files").set_input_files(
                {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"}
            )
            page.locator("#embed").click()
            expect(page.get_by_role("alert")).to_contain_text("input[6].image")


def test_a_model_of_texts_says_why_it_takes_no_images(browser: Browser, minilm_server: RunningServer) -> None:
    with watched_page(browser, minilm_server.url) as page:
        expect(page.locator("#embed")).to_be_enabled()
        expect(page.locator("#add-images")).to_be_disabled()
        expect(page.locator("#images-note")).to_contain_text("This model reads text only")
        data = base64.b64encode(PICTURES[0]).decode()
        page.locator("#editor").evaluate(GIVE_FILE, ["drop", "dropped.png", data])
        expect(page.get_by_role("alert")).to_contain_text("This model reads text only")
