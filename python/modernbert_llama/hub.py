"""Finds a checkpoint: a local folder, or a model of the Hugging Face hub (or a mirror)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from modernbert_llama.errors import InputError, ModelNotFoundError

__all__ = ["Source", "find_source"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk: its ``folder``, and the ``name`` to call it by (the hub id, or the folder's name)."""

    folder: Path
    name: str


def find_source(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """A local folder as it is; anything else is a hub id and is downloaded into huggingface_hub's cache.

    ``revision`` is a branch, tag or commit of a hub model. ``cache_dir`` replaces huggingface_hub's cache folder.
    ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are respected. Raises ``ModelNotFoundError``.
    """
    text = os.fspath(source)
    if not text:
        raise ModelNotFoundError("the model's name is empty: it is neither a folder nor a hub id")
    path = Path(text).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name too long, a null byte, a folder that may not be entered
        raise ModelNotFoundError(f"{text!r} cannot be read: {error}") from error
    if is_folder:
        if revision is not None:
            raise InputError(f"revision={revision!r} is for a hub model, but {path} is a folder")
        return Source(path, path.resolve().name)
    if exists:
        raise InputError(f"{path} is a file; give the folder of a Hugging Face checkpoint, or a hub id")
    if not _HUB_ID.fullmatch(text):
        raise ModelNotFoundError(f"there is no folder {text!r}, and it is not a hub id (owner/name)")
    # imported here: huggingface_hub costs 12 MB, which a GGUF file or a folder does not need
    from modernbert_llama.hub_download import download

    return Source(download(text, revision, cache_dir), text)
