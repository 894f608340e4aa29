"""A LoRA adapter's source → the local folder that holds it: a folder, the Hub cache, the Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from embedway.adapter_ref import ADAPTER_FILES
from embedway.errors import AdapterRefused
from embedway.models.checkpoint_location import (
    HUB_ID,
    HubRequest,
    fetch,
    looks_like_a_folder,
    refusal_of_hub,
    snapshot,
)

logger = logging.getLogger("embedway.models")


def locate_adapter(source: str, *, name: str, download_dir: str | None = None) -> Path:
    """Find the adapter `source` (a folder, or a Hub id), downloading it only if it is not on this machine.

    `name` is what errors call it; `download_dir` takes the place of the Hub cache. Raises AdapterRefused, whose
    sentence names neither path nor host. What the folder holds is for `read_adapter` to say.
    """
    if source and looks_like_a_folder(source):  # an empty path would be the folder that the server runs in
        folder = Path(source).expanduser().absolute()
        if not folder.is_dir():
            problem = "its path is a file, not a folder" if folder.exists() else "there is no such folder"
            raise AdapterRefused(adapter=name, problem=problem)
        return folder
    if "/" not in source or not HUB_ID.fullmatch(source):
        problem = "there is no such folder, and it is no Hugging Face id (owner/name)"
        raise AdapterRefused(adapter=name, problem=problem)
    request = HubRequest(name=name, repo=source, revision=None, cache=download_dir, token=None, patterns=ADAPTER_FILES)
    return cached(request) or download(request)


def cached(request: HubRequest) -> Path | None:
    """The adapter in the Hub cache, if the whole of it is there."""
    folder = snapshot(request)
    return folder if folder is not None and all((folder / file).is_file() for file in ADAPTER_FILES) else None


def download(request: HubRequest) -> Path:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        problem = "it is not on this machine, and HF_HUB_OFFLINE is set: give the path of a folder that holds it"
        raise AdapterRefused(adapter=request.name, problem=problem)
    try:
        return fetch(request, progress=False)
    except Exception as error:
        problem = refusal_of_hub(error, request)
        if problem is None:  # the library's words may name hosts of the operator's network
            logger.warning("the Hugging Face Hub did not give the adapter %r: %s", request.name, error)
            problem = "it is not on this machine, and the Hugging Face Hub cannot be reached"
        raise AdapterRefused(adapter=request.name, problem=problem) from error
