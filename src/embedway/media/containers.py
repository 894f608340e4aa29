"""What holds a video, told by its first bytes: FFmpeg is asked for that format by name, never to find out by itself.

Among all that it could find are playlists and scripts (HLS, DASH, concat, SDP), which name other files and hosts.
"""

from __future__ import annotations

MPEG_TS_PACKET = 188
ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
"""Kinds of ISO files that are images: AVIF and HEIC"""
MAGIC = (
    (b"\x1a\x45\xdf\xa3", "matroska"),  # WebM too
    (b"OggS", "ogg"),
    (b"FLV\x01", "flv"),
    (b"GIF8", "gif"),
    (b"\x00\x00\x01\xba", "mpeg"),
)
IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\x00", b"MM\x00*")
"""How still images begin; RIFF's WebP apart"""


def container_of(data: bytes) -> str | None:
    """FFmpeg's name of a video's container; None where it is none that is read here."""
    if data[4:8] in ISO_BOXES:
        return None if data[8:12] in STILL_BRANDS else "mov"
    if data[:4] == b"RIFF" and data[8:11] == b"AVI":
        return "avi"
    by_magic = next((name for magic, name in MAGIC if data.startswith(magic)), None)
    is_transport_stream = data[:1] == b"G" and data[MPEG_TS_PACKET : MPEG_TS_PACKET + 1] == b"G"
    return by_magic or ("mpegts" if is_transport_stream else None)


def is_still_image(data: bytes) -> bool:
    return data.startswith(IMAGES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
