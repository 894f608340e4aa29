"""Images, videos and texts of a dual encoder over HTTP: transformers' vectors, whatever way they come in."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from openai import OpenAI
from PIL import Image

from checkpoints import read_json, write_json
from dual_checkpoints import dual_checkpoint
from encoded_media import noise, png, saved, video
from loopback_server import Asked, always, response
from running_server import RunningServer
from served_images import ServedImages, base64_of, data_uri, origin, served_images, unit
from texts import varied_texts

SMALLEST_COSINE = 0.99999
PICTURE = png(60, 80, seed=1)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedImages]:
    with (
        origin(always(response(PICTURE, content_type="image/png"))) as host,
        served_images(
            tmp_path_factory.mktemp("served"), "clip", "--allowed-media-domains", f"localhost:{host.port}"
        ) as served,
    ):
        served.photos.joinpath("origin").write_text(str(host.port))
        served.photos.joinpath("a picture.png").write_bytes(PICTURE)
        yield served


def cosines(got: np.ndarray, expected: list[np.ndarray]) -> np.ndarray:
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    return (got * np.stack(expected)).sum(axis=1)


def mean(*vectors: np.ndarray) -> np.ndarray:
    return unit(np.mean(vectors, axis=0))


def pictures(count: int) -> list[bytes]:
    sizes = np.random.default_rng(0).integers(20, 300, (count, 2)).tolist()
    return [png(height, width, seed=i) for i, (height, width) in enumerate(sizes)]


def test_texts_and_images_are_transformers_own(served: ServedImages) -> None:
    texts, images = varied_texts(20), pictures(12)
    short = [text for text in texts if len(served.reference.tokenizer(text)["input_ids"]) <= 77]
    assert len(short) > 10
    assert cosines(served.embed(short), [served.text_vector(text) for text in short]).min() > SMALLEST_COSINE
    got = served.embed([{"image": base64_of(image)} for image in images])
    assert cosines(got, [served.image_vector(image) for image in images]).min() > SMALLEST_COSINE


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read(served: ServedImages, kind: str) -> None:
    data = saved(Image.fromarray(noise(90, 120)), kind)
    assert cosines(served.embed({"image": base64_of(data)}), [served.image_vector(data)])[0] > SMALLEST_COSINE


def test_every_way_in_leads_to_the_same_vector(served: ServedImages) -> None:
    port = served.photos.joinpath("origin").read_text()
    path = served.photos / "a picture.png"
    url = f"http://localhost:{port}/a.png"
    items: list[object] = [
        {"image": base64_of(PICTURE)},
        {"image": data_uri(PICTURE)},
        {"image": str(path)},
        {"image": path.as_uri()},
        {"image": url},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": data_uri(PICTURE)}},
        {"type": "image", "image": str(path)},
        {"content": [{"type": "input_image", "image_url": url}]},
        {"image": url, "text": None, "video": None},
    ]
    vectors = served.embed(items)
    assert cosines(vectors[:1], [served.image_vector(PICTURE)])[0] > SMALLEST_COSINE
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], len(items), axis=0), atol=1e-6)


def test_a_string_and_an_object_with_it_are_the_same(served: ServedImages) -> None:
    vectors = [served.embed(value) for value in ("a cat", {"text": "a cat"}, [{"text": "a cat"}], ["a cat"])]
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])


def test_several_parts_are_the_mean_of_their_unit_vectors(served: ServedImages) -> None:
    frames = [noise(64, 64, seed=i) for i in range(3)]
    # one frame a second, which is what a dual encoder reads
    clip = video(frames, rate=1)
    parts = [served.image_vector(saved(Image.fromarray(frame), "PNG")) for frame in frames]
    text, image, moving = served.text_vector("a cat"), served.image_vector(PICTURE), mean(*parts)
    items = [
        {"video": base64_of(clip)},
        {"text": "a cat", "image": base64_of(PICTURE)},
        {"text": "a cat", "video": base64_of(clip)},
        {"text": "a cat", "image": base64_of(PICTURE), "video": base64_of(clip)},
    ]
    expected = [moving, mean(text, image), mean(text, moving), mean(text, image, moving)]
    assert cosines(served.embed(items), expected).min() > SMALLEST_COSINE


def test_a_video_of_one_repeated_frame_is_that_image_and_a_moving_one_is_not(served: ServedImages) -> None:
    frame = noise(64, 80, seed=5)
    still, moving = video([frame] * 90), video([np.roll(frame, i, axis=1) for i in range(90)])
    image = saved(Image.fromarray(frame), "PNG")
    vectors = served.embed([{"image": base64_of(image)}, {"video": base64_of(still)}, {"video": base64_of(moving)}])
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    assert vectors[2] @ vectors[0] < 0.9999


def test_a_mixed_batch_of_64_keeps_its_order(served: ServedImages) -> None:
    images = pictures(20)
    items: list[dict[str, str]] = [{"text": f"a text of number {i}"} for i in range(20)]
    items += [{"image": data_uri(image)} for image in images]
    items += [{"text": f"with a picture {i}", "image": data_uri(image)} for i, image in enumerate(images)]
    items += [{"video": base64_of(video([noise(32, 32, seed=i)] * 3, rate=1))} for i in range(4)]
    random.Random(0).shuffle(items)
    alone = np.concatenate([served.embed(item) for item in items])
    np.testing.assert_allclose(served.embed(items), alone, atol=2e-6)
    assert np.linalg.matrix_rank(alone) > 30  # they are not all alike


def test_usage_counts_what_the_model_reads(served: ServedImages) -> None:
    def tokens(item: dict[str, str]) -> int:
        usage = served.post(item).json()["usage"]
        assert usage["prompt_tokens"] == usage["total_tokens"]
        return usage["prompt_tokens"]

    image, clip = base64_of(PICTURE), base64_of(video([noise(32, 32)] * 3, rate=1))
    of_text, of_image = tokens({"text": "a cat"}), tokens({"image": image})
    assert of_image == (served.reference.model.config.vision_config.image_size // served.reference.patch_size) ** 2 + 1
    assert tokens({"text": "a cat", "image": image}) == of_text + of_image
    assert tokens({"video": clip}) == 3 * of_image


def test_encode_takes_columns_as_sglangs_clients_send_them(served: ServedImages) -> None:
    expected = served.embed([{"text": "a cat", "image": base64_of(PICTURE)}, {"image": base64_of(PICTURE)}])
    one = served.post_to("/encode", text="a cat", image_data=base64_of(PICTURE)).json()
    np.testing.assert_allclose(one["embedding"], expected[0], atol=1e-6)
    two = served.post_to("/encode", text=["a cat", None], image_data=[base64_of(PICTURE)] * 2).json()
    np.testing.assert_allclose([answer["embedding"] for answer in two], expected, atol=1e-6)


def test_openais_client_and_the_example_search_images_by_text(served: ServedImages) -> None:
    client = OpenAI(base_url=f"{served.server.url}/v1", api_key="none")
    answer = client.embeddings.create(model="images", input=cast("list[str]", [{"image": base64_of(PICTURE)}]))
    np.testing.assert_allclose(answer.data[0].embedding, served.embed({"image": base64_of(PICTURE)})[0], atol=1e-6)
    ended = subprocess.run(
        [sys.executable, "examples/multimodal.py"],
        cwd=ROOT,
        env={**os.environ, "EMBEDWAY_URL": served.server.url},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ended.stdout.splitlines()
    assert lines[0] == "a red circle"
    assert len(lines) == 7
    assert {line[9:] for line in lines[1:]} >= {"a red ellipse", "a blue rectangle"}


def test_dimensions_types_and_encodings_apply_to_images_too(served: ServedImages) -> None:
    item = {"image": base64_of(PICTURE)}
    raw = served.embed(item, normalize=False)
    np.testing.assert_allclose(unit(raw[0]), served.embed(item)[0], atol=1e-6)
    assert abs(np.linalg.norm(raw) - 1) > 1e-3
    assert len(served.post(item, output_dtype="binary").json()["data"][0]["embedding"]) == raw.shape[1] // 8
    assert served.post(item, encoding_format="base64").status_code == 200


def test_text_requests_and_image_requests_of_100_clients_do_not_mix(served: ServedImages) -> None:
    images = pictures(10)
    items = [{"image": data_uri(image)} for image in images] + [{"text": f"a text {i}"} for i in range(10)]
    alone = np.concatenate([served.embed(item) for item in items])

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=served.server.url, timeout=120, limits=limits) as client:
            bodies = [{"model": "images", "input": items[i % len(items)]} for i in range(200)]
            return await asyncio.gather(*(client.post("/v1/embeddings", json=body) for body in bodies))

    for i, answer in enumerate(asyncio.run(ask())):
        assert answer.status_code == 200, answer.text
        vector = answer.json()["data"][0]["embedding"]
        np.testing.assert_allclose(vector, alone[i % len(items)], atol=2e-6)


def test_a_killed_decoder_costs_at_most_what_it_decodes(served: ServedImages) -> None:
    expected = served.embed({"image": base64_of(PICTURE)})
    for process in served.server.children("embedway.media.worker"):
        process.kill()
        process.wait(30)
    fresh = png(61, 81, seed=99)  # not in the cache
    assert cosines(served.embed({"image": base64_of(fresh)}), [served.image_vector(fresh)])[0] > SMALLEST_COSINE
    np.testing.assert_array_equal(served.embed({"image": base64_of(PICTURE)}), expected)


def test_a_model_of_a_real_size_reads_images_and_videos(tmp_path: Path) -> None:
    """Its images have more positions than its texts may have, and a video 32 frames of them."""
    folder = dual_checkpoint("clip", tmp_path / "real", vision={"image_size": 224, "patch_size": 16})
    processor = read_json(folder / "preprocessor_config.json")
    write_json(folder / "preprocessor_config.json", **{**processor, "size": 224, "crop_size": 224})
    clip = video([noise(32, 32, seed=i) for i in range(40)], rate=1)
    with RunningServer(str(folder), "--dtype", "float32") as server:
        items = [{"image": base64_of(PICTURE)}, {"video": base64_of(clip)}]
        for item, frames in zip(items, (1, 32), strict=True):
            answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": "real", "input": item}, timeout=120)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["prompt_tokens"] == frames * (14 * 14 + 1)


@pytest.mark.parametrize(
    "item", [{"content": "a cat", "image": "x"}, {"text": "a cat", "image_data": "x"}, {"text": "a cat", "audio": "x"}]
)
def test_nothing_is_left_out_in_silence(served: ServedImages, item: dict[str, str]) -> None:
    assert served.post(item).status_code == 400


def test_sglangs_fields_of_encode_are_refused_beside_input(served: ServedImages) -> None:
    answer = served.post("a cat", image_data=base64_of(PICTURE))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image_data")


def test_slow_hosts_do_not_hold_up_images_in_the_body_nor_the_end(served: ServedImages) -> None:
    """Their requests wait, or hold all the memory that requests for hosts may have; the others do not wait for it."""

    async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    with origin(silent) as host:
        folder = str(served.photos.parent / "images")
        flags = ("--media-memory-mb", "16", "--media-timeout", "60", "--drain-timeout", "1")
        domains = ("--allowed-media-domains", f"localhost:{host.port}")
        with ThreadPoolExecutor(1) as pool, RunningServer(folder, *flags, *domains) as server:
            slow = [{"image": f"http://localhost:{host.port}/{i}"} for i in range(100)]
            body = {"model": "images", "input": slow}
            waiting = pool.submit(httpx.post, f"{server.url}/v1/embeddings", json=body, timeout=120)
            until(lambda: bool(host.asked))
            fast = {"model": "images", "input": {"image": base64_of(PICTURE)}}
            assert httpx.post(f"{server.url}/v1/embeddings", json=fast, timeout=30).status_code == 200
            assert not waiting.done()
            server.process.terminate()
            refused = waiting.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_model_is_described(served: ServedImages) -> None:
    info = httpx.get(f"{served.server.url}/model_info").json()
    assert info["has_image_understanding"] is True


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": {"text": "word " * 300}}, 400, "input.text"),
        ({"input": {"text": "word " * 300, "image": base64_of(PICTURE)}}, 400, "input"),
        ({"input": [{"image": base64_of(PICTURE)}, {"image": "!"}]}, 400, "input[1].image"),
        ({"input": {"image": base64_of(PICTURE)}, "lora_path": "x"}, 404, "lora_path"),
        ({"input": {"image": base64_of(PICTURE)}, "prompt_name": "x"}, 400, "prompt_name"),
    ],
)
def test_what_is_wrong_is_named(served: ServedImages, body: dict[str, Any], status: int, param: str) -> None:
    answer = served.post_to("/v1/embeddings", model="images", **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_model_for_text_says_that_it_reads_no_images(minilm_server: Any) -> None:
    body = {"model": "sentence-transformers/all-MiniLM-L6-v2", "input": [{"text": "a"}, {"image": "x"}]}
    error = httpx.post(f"{minilm_server.url}/v1/embeddings", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("media_not_supported", "input[1].image")


def test_decoders_end_with_their_api_process_even_a_killed_one(served: ServedImages) -> None:
    served.embed({"image": base64_of(png(62, 82, seed=98))})
    decoders = served.server.children("embedway.media.worker")
    [api] = served.server.children("embedway.api.server")
    assert decoders
    api.kill()
    for decoder in decoders:
        decoder.wait(30)
    assert cosines(served.embed({"image": base64_of(PICTURE)}), [served.image_vector(PICTURE)])[0] > SMALLEST_COSINE


def test_media_are_timed_by_step_failures_counted_by_code_and_repeats_come_from_the_cache(served: ServedImages) -> None:
    def metric(sample: str) -> float:
        lines = httpx.get(f"{served.server.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))

    names = [
        'embedway_media_seconds_count{step="open",kind="image"}',
        'embedway_media_seconds_count{step="decode",kind="image"}',
        'embedway_media_failures_total{step="decode",kind="image",cause="media_unreadable"}',
        "embedway_media_cache_hits_total",
        'embedway_stage_seconds_count{stage="media"}',
    ]
    before = [metric(name) for name in names]
    for _ in range(2):
        served.embed({"image": base64_of(png(31, 37, seed=4021))})
    assert served.post({"image": base64_of(b"no image")}).status_code == 400
    assert [metric(name) - earlier for name, earlier in zip(names, before, strict=True)] == [3, 3, 1, 1, 3]
    assert metric("embedway_media_cache_bytes") > 0
    assert metric("embedway_media_held_bytes") == 0
