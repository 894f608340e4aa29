"""The playground as a visitor uses it: a real browser, a real server, the real MiniLM."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page, expect

from chromium import chromium, watched_page
from playground_page import HALF_A_DIGIT, heat_values, number
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
AXE = Path(__file__).parents[1] / "vendor" / "axe.min.js"
RULES: dict[Literal["light", "dark"], list[str]] = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": ["color-contrast"],  # nothing else differs
}
MARKUP = '<img src=x onerror="window.wasRun = true"><script>window.wasRun = true</script>'
CURL, PYTHON, JAVASCRIPT = "curl", "python", "javascript"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, minilm_server: RunningServer) -> Iterator[Page]:
    with watched_page(browser, minilm_server.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        expect(page.locator("#embed")).to_be_enabled()
        yield page


def texts_of(page: Page) -> list[str]:
    return page.locator("#texts").input_value().splitlines()


def embed(server: RunningServer, texts: list[str]) -> npt.NDArray[np.float64]:
    body = {"model": MODEL, "input": texts}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60).json()
    return np.array([entry["embedding"] for entry in answer["data"]])


def test_the_first_click_shows_how_alike_the_sample_s_items_are(page: Page, minilm_server: RunningServer) -> None:
    texts = texts_of(page)
    page.get_by_role("button", name="Embed").click()
    vectors = embed(minilm_server, texts)
    np.testing.assert_allclose(heat_values(page), vectors @ vectors.T, atol=HALF_A_DIGIT)
    tokens = page.locator("#stat-tokens").inner_text()
    usage = httpx.post(f"{minilm_server.url}/v1/embeddings", json={"model": MODEL, "input": texts}).json()["usage"]
    assert int(tokens) == usage["prompt_tokens"]
    assert page.locator("#stat-items").inner_text() == str(len(texts))
    assert page.locator("#stat-dimensions").inner_text() == "384"
    assert re.fullmatch(r"[\d.]+ m?s", page.locator("#stat-time").inner_text())


def test_the_keyboard_alone_leads_through_everything(page: Page, minilm_server: RunningServer) -> None:
    page.locator("#texts").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("a cat\na kitten\na rocket")
    page.keyboard.press("Control+Enter")
    page.locator(".heat").wait_for()
    page.locator("#tab-compare").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    vectors = embed(minilm_server, ["a cat", "a kitten", "a rocket"])
    expect(page.locator(".detail")).to_have_text(f"{vectors[1] @ vectors[2]:.4f} 2. a kitten ↔ 3. a rocket")
    page.keyboard.press("Control+Home")
    expect(page.locator(".detail")).to_have_text("1.0000 1. a cat ↔ 1. a cat")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Map")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile(r"^a kitten\. Nearest: a cat"))
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.type("spaceship")  # after the sample's query, which is selected as any field's text is
    page.keyboard.press("Enter")
    expect(page.locator(".ranking li").first).to_contain_text("a rocket")


def test_a_search_ranks_as_the_api_s_vectors_do_and_sends_the_documents_once(
    page: Page, minilm_server: RunningServer
) -> None:
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    texts = texts_of(page)
    page.locator("#tab-search").click()
    for query in ("trouble signing in", "spacecraft"):
        page.locator("#query").fill(query)
        page.locator("#query").press("Enter")
        scores = embed(minilm_server, texts) @ embed(minilm_server, [query])[0]
        order = np.argsort(-scores)
        expect(page.locator(".ranking li").first).to_contain_text(texts[order[0]])
        assert [entry.split("\n")[-1] for entry in page.locator(".ranking li").all_inner_texts()] == [
            texts[i] for i in order
        ]
        shown = [number(text) for text in page.locator(".score").all_inner_texts()]
        np.testing.assert_allclose(shown, scores[order], atol=0.0000501)
    assert [len(body["input"]) for body in sent] == [len(texts), 1, 1]


def test_the_map_is_numpy_s_principal_components(page: Page) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 12)) * np.linspace(3, 1, 12)
    made = page.evaluate(
        "async (vectors) => (await import('/playground/projection.js')).project(vectors)", vectors.tolist()
    )
    centred = vectors - vectors.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * spread[:2]
    np.testing.assert_allclose(np.abs(made["points"]), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(made["shares"], spread[:2] ** 2 / (spread**2).sum(), atol=1e-6)
    alike = page.evaluate("async () => (await import('/playground/projection.js')).project([[1, 2], [1, 2]])")
    assert alike == {"points": [[0, 0], [0, 0]], "shares": [0, 0]}


def test_every_item_is_on_the_map(page: Page) -> None:
    page.locator("#tab-map").click()
    page.locator("#embed").click()
    expect(page.locator("[role=listitem]")).to_have_count(len(texts_of(page)))
    page.locator("[role=listitem]").nth(4).hover()
    expect(page.locator(".detail")).to_contain_text("I cannot log in to my account. Nearest: The sign-in page")


def test_what_is_written_is_text_and_never_markup(page: Page) -> None:
    page.locator("#texts").fill(f"{MARKUP}\nplain")
    page.locator("#query").evaluate("(field, text) => (field.value = text)", MARKUP)
    page.locator("#embed").click()
    expect(page.locator(".heat tbody th").first).to_contain_text(MARKUP)
    page.locator("#tab-map").click()
    page.locator("[role=listitem]").first.hover()
    expect(page.locator(".detail strong")).to_have_text(MARKUP)
    page.locator("#tab-search").click()
    page.locator("#search").click()
    expect(page.locator(".ranking li").first).to_contain_text(MARKUP)
    for tab in (CURL, PYTHON, JAVASCRIPT):
        page.locator(f"#tab-{tab}").click()
    assert page.evaluate("window.wasRun") is None
    assert page.locator("img[src=x]").count() == 0


def test_a_refusal_is_shown_in_the_server_s_words(browser: Browser, minilm_server: RunningServer) -> None:
    text = "word " * 400
    refused = httpx.post(f"{minilm_server.url}/v1/embeddings", json={"model": MODEL, "input": [text.strip()]}).json()
    with watched_page(browser, minilm_server.url, expects="status of 400") as page:
        page.locator("#texts").fill(text)
        page.locator("#embed").click()
        expect(page.get_by_role("alert")).to_contain_text(refused["error"]["message"])
        expect(page.get_by_role("alert")).to_contain_text("status 400 · context_length_exceeded")
        page.locator("#texts").fill("short")
        page.locator("#embed").click()
        page.locator(".heat").wait_for()
        expect(page.locator("#alert")).to_be_hidden()


def copied(page: Page, language: str) -> str:
    page.locator(f"#tab-{language}").click()
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    return page.evaluate("navigator.clipboard.readText()")


def run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_copied_code_sends_what_the_page_sends(page: Page) -> None:
    """`'`, `"`, a backslash, `$HOME` and an end of the here-document are no more than text."""
    texts = ["it's $HOME", 'say "hi" \\ back', "JSON", "naïve 🐈"]
    page.locator("#texts").fill("\n".join(texts))
    page.locator(".options summary").click()
    page.locator("#truncate").select_option("end")
    page.locator("#normalize").uncheck()
    with page.expect_request("**/v1/embeddings") as sent:
        page.locator("#embed").click()
    body = sent.value.post_data_json
    assert body is not None
    assert body["input"] == texts
    code = {language: copied(page, language) for language in (CURL, PYTHON, JAVASCRIPT)}
    answer = json.loads(run(["bash", "-c", code[CURL].replace("curl ", "curl -s ")]))
    assert answer == httpx.post(sent.value.url, json=body).json()
    tokens = answer["usage"]["total_tokens"]
    assert run([sys.executable, "-c", code[PYTHON]]) == f"4 vectors, {tokens} tokens\n"
    call = code[JAVASCRIPT].partition("embeddings.create(")[2].partition(");\nconsole.log")[0]
    assert page.evaluate(f"() => ({call})") == body


def test_the_colours_are_the_system_s_until_others_are_chosen(browser: Browser, minilm_server: RunningServer) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with watched_page(browser, minilm_server.url, color_scheme="light") as page:
        light = page.evaluate(background)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(background)
        assert light != dark
        toggle = page.get_by_role("button", name="Dark theme", pressed=True)
        toggle.click()
        assert page.evaluate(background) == light
        page.reload()
        assert page.evaluate(background) == light
        expect(page.locator("#theme")).to_have_attribute("aria-pressed", "false")


def test_a_phone_s_screen_is_wide_enough_and_nothing_jumps(browser: Browser, minilm_server: RunningServer) -> None:
    with watched_page(browser, minilm_server.url, viewport={"width": 360, "height": 740}) as page:
        expect(page.locator("#embed")).to_be_enabled()
        height = "document.querySelector('#view-compare').getBoundingClientRect().top + scrollY"
        before = page.evaluate(height)
        page.locator("#embed").click()
        page.locator(".heat").wait_for()
        assert page.evaluate(height) == before
        for view in ("map", "search", "compare"):
            page.locator(f"#tab-{view}").click()
            assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_axe_finds_no_fault_in_any_view_and_theme(browser: Browser, minilm_server: RunningServer) -> None:
    with watched_page(browser, minilm_server.url, color_scheme="light", reduced_motion="reduce") as page:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        page.locator(".options summary").click()
        for view, shown in (("compare", ".heat"), ("map", ".map svg"), ("search", ".ranking")):
            page.locator(f"#tab-{view}").click()
            page.locator("#embed").click()
            page.locator(shown).wait_for()
            for theme, rules in RULES.items():
                page.emulate_media(color_scheme=theme)
                found = page.evaluate("(rules) => axe.run({runOnly: rules})", rules)["violations"]
                assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found] == []
