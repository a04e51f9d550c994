"""Fetches from the hub (or a mirror), once, into huggingface_hub's cache: what the converter reads, or one file."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from modernbert_llama.errors import InputError, ModelNotFoundError

__all__ = ["download", "fetch_file"]

_ENCODER_FILES = (
    "config.json",
    "adapter_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",  # of a few MB; the one tokenizer of some repositories
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
    "artifact.metadata",  # what ColBERT's own code saves
)
# only what the converter reads: no README, no ONNX, no pickles
_WANTED = [
    *_ENCODER_FILES,
    *(f"0_Transformer/{name}" for name in _ENCODER_FILES),
    "modules.json",
    "config_sentence_transformers.json",
    "[0-9]_*/config.json",
    "[0-9]_*/model.safetensors",  # Dense
]
# with OSError and the base error of the HTTP library, whichever one this huggingface_hub is built on
_FETCH_ERRORS: tuple[type[Exception], ...] = (
    EntryNotFoundError,
    *(base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base is not Exception),
)


def download(name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of the hub model ``name``. Raises ``ModelNotFoundError``."""
    with _explained(name, revision=revision):
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=_expanded(cache_dir),
            endpoint=_endpoint(),
            allow_patterns=_WANTED,
            library_name="modernbert-llama",
        )
    if not (Path(folder) / "config.json").exists() and not (Path(folder) / "modules.json").exists():
        raise ModelNotFoundError(f"{name!r} on the hub has no config.json: it is not a Hugging Face checkpoint")
    return Path(folder)


def fetch_file(
    name: str,
    filename: str,
    *,
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The one file of a hub repository whose path is, or matches, ``filename`` ("*q8_0.gguf"), fetched once and cached.

    ``local_dir`` keeps the file there in place of huggingface_hub's cache, which ``cache_dir`` replaces. Without a
    wildcard the hub is not asked for a listing, so that a cached file is found without a network. Raises
    ``ModelNotFoundError`` when the hub has no such repository or cannot be reached, ``InputError`` when it has no such
    file or more than one.
    """
    with _explained(name, file=filename):
        if re.search(r"[*?[]", filename):
            filename = _match(name, filename)
        try:
            path = hf_hub_download(
                name,
                filename,
                local_dir=_expanded(local_dir),
                cache_dir=_expanded(cache_dir),
                endpoint=_endpoint(),
                library_name="modernbert-llama",
            )
        except LocalEntryNotFoundError:
            raise  # the hub is out of reach and the file is not cached
        except EntryNotFoundError:
            path = _match(name, filename)  # which says what there is
    return Path(path)


def _match(name: str, pattern: str) -> str:
    files = HfApi(endpoint=_endpoint(), library_name="modernbert-llama").list_repo_files(name)
    found = [file for file in files if fnmatch.fnmatch(file, pattern)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{len(found)} files of {name!r} match {pattern!r}, give one: {', '.join(found)}")
    raise InputError(f"no file of {name!r} matches {pattern!r}; it has: {', '.join(files) or 'no files'}")


def _expanded(folder: str | os.PathLike[str] | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None  # huggingface_hub itself reads it only once, when imported


@contextmanager
def _explained(name: str, revision: str | None = None, file: str | None = None) -> Iterator[None]:
    """Turns huggingface_hub's errors into ours. Without ``file`` the name might have been that of a folder."""
    at = f" at revision {revision!r}" if revision else ""
    what = f"{file!r} of {name!r}" if file else f"{name!r}{at}"
    no_folder = "" if file else f"there is no folder {name!r}, and "
    try:
        yield
    except HFValidationError as error:
        raise ModelNotFoundError(f"{no_folder}{name!r} is not a hub id: {error}") from error
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{what} is gated: accept its terms on its page, then log in (`hf auth login`, or set HF_TOKEN)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{no_folder}no such model on the hub: {name!r}: check the name; "
            "for a private model, log in (`hf auth login`) or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{name!r} has no revision {revision!r}: give a branch, a tag or a commit") from error
    except _FETCH_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"{no_folder}{what} could not be fetched from the hub: {reason} "
            "(check the network, HF_ENDPOINT and HF_TOKEN, or give a local path)"
        ) from error
