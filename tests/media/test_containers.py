from __future__ import annotations

import pytest
from PIL import Image

from embedway.media.containers import container_of, is_still_image
from encoded_media import counting_frames, png, saved, video


@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt", "name"),
    [
        ("mp4", "mpeg4", "yuv420p", "mov"),
        ("mov", "mpeg4", "yuv420p", "mov"),
        ("matroska", "ffv1", "bgr0", "matroska"),
        ("webm", "libvpx", "yuv420p", "matroska"),
        ("avi", "mpeg4", "yuv420p", "avi"),
        ("mpegts", "mpeg2video", "yuv420p", "mpegts"),
        ("mpeg", "mpeg1video", "yuv420p", "mpeg"),
        ("flv", "flv1", "yuv420p", "flv"),
        ("gif", "gif", "rgb8", "gif"),
    ],
)
def test_containers_are_told_by_their_first_bytes(container: str, codec: str, pix_fmt: str, name: str) -> None:
    assert container_of(video(counting_frames(4), container=container, codec=codec, pix_fmt=pix_fmt)) == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"<MPD></MPD>",
        b"\x00\x00\x00\x20ftypavif",
        png(),
    ],
)
def test_playlists_and_images_are_no_containers(data: bytes) -> None:
    assert container_of(data) is None


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_still_images_are_told_by_their_first_bytes(format_: str) -> None:
    assert is_still_image(saved(Image.new("RGB", (8, 8)), format_))
    assert not is_still_image(b"RIFF\x00\x00\x00\x00AVI ")
