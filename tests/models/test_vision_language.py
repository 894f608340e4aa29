from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModel

from embedway.errors import AdapterRefused, UnsupportedCheckpoint
from embedway.models import vision_language_loading
from embedway.models.adapter_checkpoint import read_adapter
from embedway.models.architectures import load_model
from embedway.models.interface import PackedBatch
from embedway.models.mrope import RotaryPositions
from embedway.models.patches import patch_grid, patches_of
from embedway.models.transformers_loading import quiet_transformers
from embedway.models.vision_language import VisionLanguageModel
from midst import Midst
from peft_folders import peft_folder, quiet_peft
from vl_checkpoints import FAMILIES, random_visual, tiny_vl_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from embedway.model_spec import ModelSpec
    from embedway.visual import Visual

Ids = list[int]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
CENTRED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Loaded(NamedTuple):
    spec: ModelSpec
    ours: VisionLanguageModel
    theirs: Any


class Item(NamedTuple):
    ids: Ids
    visuals: tuple[Visual, ...] = ()


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    spec = tiny_vl_spec(request.param, tmp_path_factory.mktemp(request.param))
    ours = load_model(spec, dtype="float32", device="cpu")
    assert isinstance(ours, VisionLanguageModel)
    with quiet_transformers():
        return Loaded(spec, ours, AutoModel.from_pretrained(spec.folder).eval())


def item(spec: ModelSpec, *visuals: Visual, seed: int = 0, text: int = 4) -> Item:
    """Random text before, between and behind the visuals, laid out as the model's prompts are."""
    assert spec.vision is not None
    chat = spec.vision.chat
    assert chat is not None
    random = np.random.default_rng(seed)

    def words(count: int) -> Ids:
        return random.integers(0, 256, count).tolist()

    ids = words(text)
    for visual in visuals:
        steps = len(range(0, len(visual.pixels), 2)) if chat.has_timestamps and visual.kind == "video" else 1
        pad = chat.image_token_id if visual.kind == "image" else chat.video_token_id
        for _ in range(steps):
            ids += [*words(3), chat.vision_start_token_id, *[pad] * (visual.num_tokens // steps)]
            ids += [chat.vision_end_token_id]
    return Item([*ids, *words(5)], visuals)


def packed_items(items: Sequence[Item]) -> PackedBatch:
    return PackedBatch(
        token_ids=np.concatenate([np.array(one.ids, np.int32) for one in items]),
        cu_seqlens=np.cumsum([0, *(len(one.ids) for one in items)], dtype=np.int32),
        pool_starts=np.zeros(len(items), np.int32),
        visuals={i: one.visuals for i, one in enumerate(items) if one.visuals},
    )


def inputs_of(loaded: Loaded, one: Item) -> dict[str, Any]:
    """What transformers' processor would give: patches are made here one by one."""
    vision = loaded.spec.vision
    assert vision is not None
    assert vision.chat is not None
    ids = torch.tensor([one.ids])
    kinds = (ids == vision.chat.image_token_id).int() + 2 * (ids == vision.chat.video_token_id).int()
    inputs: dict[str, Any] = {"input_ids": ids, "mm_token_type_ids": kinds}
    for kind, values, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        own = [visual for visual in one.visuals if visual.kind == kind]
        if own:
            centred = kind == "video" and loaded.spec.model_type == "qwen3_vl"
            inputs[values] = torch.cat([slow_patches(visual, *(CENTRED if centred else CLIP)) for visual in own])
            inputs[grid] = torch.tensor([patch_grid(visual, vision.image) for visual in own])
    videos = [visual for visual in one.visuals if visual.kind == "video"]
    if videos and loaded.spec.model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = [2 * (video.timestamps[1] - video.timestamps[0]) for video in videos]
    return inputs


def slow_patches(visual: Visual, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """float32 [patches, 96]: two frames, 4 x 4 pixels, in blocks of 2 x 2 patches."""
    patch = 4
    values = (visual.pixels / 255 - np.array(mean)) / np.array(std)
    frames, height, width = values.shape[:3]
    rows = []
    for t in range(0, frames, 2):
        for y in range(0, height, 2 * patch):
            for x in range(0, width, 2 * patch):
                for dy, dx in ((0, 0), (0, patch), (patch, 0), (patch, patch)):
                    pair = [values[min(i, frames - 1), y + dy :, x + dx :][:patch, :patch] for i in (t, t + 1)]
                    rows.append(np.stack(pair).transpose(3, 0, 1, 2).ravel())
    return torch.tensor(np.array(rows), dtype=torch.float32)


@torch.inference_mode()
def their_vector(loaded: Loaded, one: Item) -> npt.NDArray[np.float32]:
    return loaded.theirs(**inputs_of(loaded, one))[0][0, -1].numpy()


def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def samples(spec: ModelSpec) -> list[Item]:
    """Every kind of item, in many sizes."""
    vision = spec.vision
    assert vision is not None
    sizes = [(1, 1), (1, 5), (4, 2), (3, 3), (7, 4), (5, 8)]
    images = [random_visual(vision, "image", 1, *size, seed=i) for i, size in enumerate(sizes)]
    videos = [
        random_visual(vision, "video", frames, height, width, seed=frames, fps=fps)
        for frames, height, width, fps in ((2, 2, 2, 2.0), (5, 1, 3, 2.0), (8, 4, 4, 0.7), (6, 2, 5, 1.0))
    ]
    return [
        item(spec, seed=1),
        item(spec, seed=2, text=60),
        *(item(spec, image, seed=i) for i, image in enumerate(images)),
        *(item(spec, video, seed=i) for i, video in enumerate(videos)),
        *(
            item(spec, image, video, seed=i, text=9)
            for i, (image, video) in enumerate(zip(images, videos, strict=False))
        ),
    ]


def test_every_kind_of_item_gets_the_vector_that_transformers_gives(loaded: Loaded) -> None:
    for one in samples(loaded.spec):
        [ours] = loaded.ours.embed(packed_items([one]))
        assert cosine(ours, their_vector(loaded, one)) > 0.999999
        assert np.allclose(ours, their_vector(loaded, one), atol=2e-4)


def test_a_mixed_batch_gives_what_its_items_give_alone(loaded: Loaded) -> None:
    items = samples(loaded.spec)
    alone = [loaded.ours.embed(packed_items([one]))[0] for one in items]
    order = np.random.default_rng(3).permutation(len(items))
    together = loaded.ours.embed(packed_items([items[i] for i in order]))
    scale = np.linalg.norm(np.array(alone), axis=1).max()
    assert np.abs(together - np.array(alone)[order]).max() <= 1e-5 * scale


def test_pixels_change_the_vector_and_so_does_their_order(loaded: Loaded) -> None:
    vision = loaded.spec.vision
    assert vision is not None
    first, second = (random_visual(vision, "image", 1, 2, 3, seed=seed) for seed in (1, 2))
    pairs = [item(loaded.spec, first, second), item(loaded.spec, second, first)]
    one, other = loaded.ours.embed(packed_items(pairs))
    assert cosine(one, other) < 0.9999


def test_positions_are_those_of_transformers(loaded: Loaded) -> None:
    positions = loaded.ours.encoder.positions
    for one in samples(loaded.spec):
        if not one.visuals:
            continue
        inputs = inputs_of(loaded, one)
        expected, _ = loaded.theirs.get_rope_index(**{k: v for k, v in inputs.items() if "pixel" not in k})
        assert np.array_equal(positions.of_batch(packed_items([one])), expected[:, 0].T.numpy())


def test_text_alone_does_not_touch_the_tower(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.ours.encoder, "tower", None)
    assert np.isfinite(loaded.ours.embed(packed_items([item(loaded.spec)]))).all()


def test_placeholders_without_pixels_are_an_error(loaded: Loaded) -> None:
    vision = loaded.spec.vision
    assert vision is not None
    one = item(loaded.spec, random_visual(vision, "image", 1, 2, 2))
    with pytest.raises(ValueError, match="placeholders"):
        loaded.ours.embed(packed_items([Item(one.ids)]))


def test_attention_in_the_tower_is_one_call_a_layer(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedway.models import qwen_vl_tower

    calls = []

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(len(args[0]))
        return attention(*args, **options)

    attention = qwen_vl_tower.varlen_attention
    monkeypatch.setattr(qwen_vl_tower, "varlen_attention", counted)
    loaded.ours.embed(packed_items(samples(loaded.spec)))
    assert len(calls) == len(loaded.ours.encoder.tower.attentions)
    assert calls[0] % 64 == 0


def test_patches_are_those_of_the_image_processor(loaded: Loaded) -> None:
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = loaded.spec.vision
    assert vision is not None
    visual = random_visual(vision, "image", 1, 3, 5)
    processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 4096}
    )
    expected = processor(Image.fromarray(visual.pixels[0]), return_tensors="pt")
    ours = patches_of(visual, vision.image, torch.device("cpu"))
    assert torch.allclose(ours, expected["pixel_values"], atol=1e-6)
    assert list(patch_grid(visual, vision.image)) == expected["image_grid_thw"][0].tolist()


def test_patches_of_a_video_repeat_its_last_frame(loaded: Loaded) -> None:
    vision = loaded.spec.vision
    assert vision is not None
    video = random_visual(vision, "video", 5, 2, 3)
    assert torch.allclose(patches_of(video, vision.image, torch.device("cpu")), slow_patches(video, *CLIP), atol=1e-6)


def test_a_model_that_differs_from_transformers_is_refused(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RotaryPositions, "of_sequence", lambda *_: np.zeros((3, 1), np.int64))
    with pytest.raises(UnsupportedCheckpoint, match="other vectors"):
        vision_language_loading.load_vision_language(loaded.spec, dtype="float32", device="cpu", threads=1)


def test_an_adapter_changes_the_decoder_of_its_own_sequences(loaded: Loaded, tmp_path: Path) -> None:
    folder = peft_folder(loaded.spec.folder, tmp_path, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"]))
    adapter = loaded.ours.make_adapter(read_adapter(folder, name="mine", max_rank=None))
    items = samples(loaded.spec)[1:5]
    batch = replace(
        packed_items([*items, *items]),
        adapters=(adapter,),
        adapter_indices=np.array([0, -1] * len(items), np.int32),
    )
    with quiet_transformers(), quiet_peft():
        theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(loaded.spec.folder), str(folder)).eval()
    adapted = loaded._replace(theirs=theirs)
    for i, (one, ours) in enumerate(zip([*items, *items], loaded.ours.embed(batch), strict=True)):
        assert cosine(ours, their_vector(adapted if i % 2 == 0 else loaded, one)) > 0.99999
        assert cosine(ours, their_vector(loaded if i % 2 == 0 else adapted, one)) < 0.999


def test_an_adapter_of_the_tower_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    folder = peft_folder(loaded.spec.folder, tmp_path, LoraConfig(r=4, target_modules=["qkv", "q_proj"]))
    with pytest.raises(AdapterRefused, match="visual"):
        loaded.ours.make_adapter(read_adapter(folder, name="mine", max_rank=None))


def test_a_shorter_type_is_close_to_float32(loaded: Loaded) -> None:
    model = load_model(loaded.spec, dtype="bfloat16", device="cpu")
    for one in samples(loaded.spec)[:6]:
        [exact], [rough] = (m.embed(packed_items([one])) for m in (loaded.ours, model))
        assert cosine(exact, rough) > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.99)])
def test_images_videos_and_texts_run_on_cuda(loaded: Loaded, dtype: str, least: float) -> None:
    model = load_model(loaded.spec, dtype=dtype, device="cuda")
    items = samples(loaded.spec)
    got, expected = model.embed(packed_items(items)), loaded.ours.embed(packed_items(items))
    assert min(map(cosine, got, expected)) >= least


def test_a_text_runs_in_the_midst_of_an_image_and_changes_nothing(loaded: Loaded) -> None:
    assert loaded.spec.vision is not None
    visual = random_visual(loaded.spec.vision, "image", 1, 3, 2)
    image = packed_items([item(loaded.spec, visual), item(loaded.spec, seed=2)])
    text = packed_items([item(loaded.spec, seed=3)])
    alone, alone_text = loaded.ours.embed(image), loaded.ours.embed(text)
    midst = Midst(loaded.ours, text)
    np.testing.assert_allclose(midst.embed(image), alone, rtol=1e-5, atol=1e-7)
    assert len(midst.vectors) >= 2 + 3  # of the tower's layers, and the decoder's
    for vectors in midst.vectors:
        np.testing.assert_allclose(vectors, alone_text, rtol=1e-5, atol=1e-7)
