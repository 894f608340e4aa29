from __future__ import annotations

import itertools
import struct
import subprocess
import sys

import numpy as np

from embedway.adapter_ref import AdapterRef
from embedway.engine.engine_request import EngineRequest
from embedway.engine.sequence_key import sequence_keys
from embedway.visual import MediaKind, Visual

ONE, OTHER = AdapterRef("a", "/a", "1" * 64), AdapterRef("a", "/a", "2" * 64)


def request(
    *sequences: list[int],
    pool_start: int = 0,
    adapters: tuple[AdapterRef | None, ...] = (),
    visuals: dict[int, tuple[Visual, ...]] | None = None,
) -> EngineRequest:
    made = EngineRequest(
        key=0,
        token_ids=np.concatenate(sequences).astype(np.int32),
        cu_seqlens=np.array([0, *itertools.accumulate(map(len, sequences))], dtype=np.int32),
        pool_start=pool_start,
        visuals=visuals or {},
    )
    if refs := tuple(dict.fromkeys(filter(None, adapters))):
        made.refs = refs
        places = [-1 if adapter is None else refs.index(adapter) for adapter in adapters]
        made.adapter_indices = np.array(places, dtype=np.int32)
    return made


def image(
    *, kind: MediaKind = "image", shape: tuple[int, int, int] = (1, 4, 6), first: int = 0, times: tuple[float, ...] = ()
) -> Visual:
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    pixels[0, 0, 0, 0] = first
    return Visual(kind, pixels, 2, times)


def test_a_sequence_has_one_key_whatever_stands_beside_it() -> None:
    alone = sequence_keys(request([4, 5, 6]))
    assert len(alone[0]) == 16
    assert sequence_keys(request([4, 5, 6], [4, 5], [4, 5, 6], [4, 5, 6, 7]))[::2] == alone * 2
    assert sequence_keys(request([9], [4, 5, 6], adapters=(ONE, None)))[1:] == alone
    assert sequence_keys(request([9], [4, 5, 6], visuals={0: (image(),)}))[1:] == alone


def test_all_that_changes_a_vector_changes_the_key() -> None:
    different = [
        request([4, 5, 6]),
        request([4, 5, 7]),
        request([4, 5]),
        request([4, 5, 6, 0]),
        request([6, 5, 4]),
        request([4, 5, 6], pool_start=1),
        request([4, 5, 6], adapters=(ONE,)),
        request([4, 5, 6], adapters=(OTHER,)),  # the same name and folder: other content
        *(
            request([4, 5, 6], visuals={0: visuals})
            for visuals in (
                (image(),),
                (image(first=1),),
                (image(), image(first=1)),
                (image(first=1), image()),
                (image(shape=(1, 6, 4)),),
                (image(shape=(2, 2, 6)),),
                (image(kind="video"),),
                (image(kind="video", times=(0.0,)),),
                (image(kind="video", times=(0.5,)),),
                (image(), image()),
            )
        ),
    ]
    keys = [sequence_keys(one)[0] for one in different]
    assert len(set(keys)) == len(keys)


def test_token_ids_cannot_stand_for_an_image() -> None:
    """Those of the bytes that an image of one black pixel is hashed as."""
    one_pixel = Visual("image", np.zeros((1, 1, 1, 3), dtype=np.uint8), num_tokens=2)
    hashed = struct.pack("<6q", len("image"), 0, 2, 1, 1, 1) + b"image" + bytes(3)
    disguised = np.frombuffer(hashed, dtype=np.int32).tolist()
    keys = sequence_keys(request([7], [*disguised, 7], visuals={0: (one_pixel,)}))
    assert keys[0] != keys[1]


def test_keys_of_one_process_say_nothing_to_another() -> None:
    """Who knows them all still cannot make two sequences of one key."""
    code = (
        "import numpy as np; from embedway.engine.engine_request import EngineRequest;"
        "from embedway.engine.sequence_key import sequence_keys;"
        "r = EngineRequest(0, np.array([4, 5, 6], np.int32), np.array([0, 3], np.int32)); print(sequence_keys(r))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() != str(sequence_keys(request([4, 5, 6])))
