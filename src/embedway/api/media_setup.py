"""Settings → what reads images and videos in this API process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from embedway.errors import MediaNotInstalled
from embedway.models.cpu_threads import available_cores

if TYPE_CHECKING:
    from embedway.config import Settings
    from embedway.media.reader import MediaReader, OnStep
    from embedway.model_spec import ModelSpec

PACKAGES = ("PIL", "av", "httpx")
"""Those of the extra `media` that are used here"""


@contextlib.asynccontextmanager
async def media_reader(spec: ModelSpec, settings: Settings, on_step: OnStep) -> AsyncGenerator[MediaReader | None]:
    """None where the model reads text only. Raises MediaNotInstalled or InvalidSetting."""
    if spec.vision is None:
        yield None
        return
    reader = make_reader(spec, settings, on_step)
    try:
        yield reader
    finally:
        await reader.aclose()


def make_reader(spec: ModelSpec, settings: Settings, on_step: OnStep) -> MediaReader:
    assert spec.vision is not None
    try:
        from embedway.media.decoder import MediaDecoder
        from embedway.media.limits import MIB, MediaLimits, max_visual_tokens
        from embedway.media.memory import MediaMemory
        from embedway.media.reader import REQUEST_TIMEOUT, MediaReader
        from embedway.media.rules import MediaRules, read_allowed_domains
        from embedway.media.sources import MediaSources
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise MediaNotInstalled(what=spec.name, package=error.name) from error
    rules = MediaRules(
        allowed_domains=read_allowed_domains(settings.allowed_media_domains),
        allows_remote=not settings.no_remote_media,
        local_roots=tuple(settings.allowed_local_media_path),
        max_bytes=settings.max_media_mb * MIB,
        timeout_seconds=settings.media_timeout,
    )
    limits = MediaLimits(
        max_image_pixels=settings.max_image_pixels,
        max_video_seconds=settings.max_video_seconds,
        max_tokens=max_visual_tokens(spec),
        timeout_seconds=settings.media_timeout,
        max_data_bytes=settings.max_media_mb * MIB,
        max_queued_bytes=4 * settings.media_memory_mb * MIB,
        video_fps=settings.video_fps,
        video_max_frames=settings.video_max_frames,
        cache_bytes=settings.media_cache_mb * MIB,
    )
    num_workers = settings.media_workers or max(1, available_cores() // settings.api_workers)
    return MediaReader(
        MediaSources(rules),
        MediaDecoder(spec.vision, limits, num_workers=num_workers),
        MediaMemory(settings.media_memory_mb * MIB // 2),
        MediaMemory(settings.media_memory_mb * MIB // 2),
        spec.vision,
        settings.video_max_frames or spec.vision.video.max_frames,
        REQUEST_TIMEOUT * settings.media_timeout,
        on_step,
    )
