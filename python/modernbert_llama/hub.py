"""Finds a checkpoint: a local folder, or a model of the Hugging Face hub (or a mirror), fetched once and cached."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from modernbert_llama.errors import InputError, ModelNotFoundError

__all__ = ["Source", "find_source"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_ENCODER_FILES = (
    "config.json",
    "adapter_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
)
# only what the converter reads: no README, no ONNX, no pickles
_WANTED = [
    *_ENCODER_FILES,
    *(f"0_Transformer/{name}" for name in _ENCODER_FILES),
    "modules.json",
    "config_sentence_transformers.json",
    "[0-9]_*/config.json",
]
# with OSError and the base error of the HTTP library, whichever one this huggingface_hub is built on
_FETCH_ERRORS: tuple[type[Exception], ...] = (
    EntryNotFoundError,
    *(base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base is not Exception),
)


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
    return Source(_download(text, revision, cache_dir), text)


def _download(name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT") or None  # huggingface_hub itself reads it only once, when imported
    where = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=None if cache_dir is None else Path(cache_dir).expanduser(),
            endpoint=endpoint,
            allow_patterns=_WANTED,
            library_name="modernbert-llama",
        )
    except HFValidationError as error:
        raise ModelNotFoundError(f"there is no folder {name!r}, and it is not a hub id: {error}") from error
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{where} is gated: accept its terms on its page, then log in (`hf auth login`, or set HF_TOKEN)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"there is no folder {name!r}, and no such model on the hub: check the name; "
            "for a private model, log in (`hf auth login`) or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{name!r} has no revision {revision!r}: give a branch, a tag or a commit") from error
    except _FETCH_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"there is no folder {name!r}, and {where} could not be fetched from the hub: {reason} "
            "(check the network, HF_ENDPOINT and HF_TOKEN, or give a local folder)"
        ) from error
    if not (Path(folder) / "config.json").exists() and not (Path(folder) / "modules.json").exists():
        raise ModelNotFoundError(f"{where} on the hub has no config.json: it is not a Hugging Face checkpoint")
    return Path(folder)
