"""Converted checkpoints, kept by content: one checkpoint is converted once, wherever it lies, whatever its name."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from modernbert_llama.atomic_file import remove_abandoned
from modernbert_llama.checkpoint import content_sha256, read_checkpoint
from modernbert_llama.convert import CONVERTER_VERSION, OUTTYPES, OutType, write_gguf
from modernbert_llama.errors import ConversionError, InputError
from modernbert_llama.hub import find_source

__all__ = ["cache_folder", "converted"]


def cache_folder() -> Path:
    """Where converted files are kept: ``MODERNBERT_LLAMA_CACHE``, else ``modernbert-llama`` in ``XDG_CACHE_HOME``
    or ``~/.cache``."""
    own = os.environ.get("MODERNBERT_LLAMA_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    # the XDG specification: a relative path is to be ignored
    base = Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache"
    return base / "modernbert-llama"


def converted(
    source: str | os.PathLike[str],
    outtype: OutType = "f32",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool | None = None,
) -> Path:
    """The GGUF file of a checkpoint, converted on the first call and found on later ones.

    ``source`` and ``revision`` as for ``convert``. ``cache_dir`` replaces the folder of converted files and, in its
    folder ``hub``, huggingface_hub's cache too. Raises what ``convert`` raises.
    """
    if outtype not in OUTTYPES:
        raise InputError(f"outtype {outtype!r} is not one of {', '.join(OUTTYPES)}")
    folder = cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
    found = find_source(source, revision=revision, cache_dir=None if cache_dir is None else folder / "hub")
    key = hashlib.sha256(f"{CONVERTER_VERSION} {outtype} {content_sha256(found.folder)}".encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "_", found.name)[:80]
    for earlier in folder.glob(f"*-{outtype}-{key[:32]}.gguf"):  # perhaps under another name
        return earlier
    target = folder / f"{name}-{outtype}-{key[:32]}.gguf"
    checkpoint = read_checkpoint(found.folder, name=found.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConversionError(f"cannot make the cache folder {folder}: {error.strerror or error}") from error
    remove_abandoned(folder)
    # of processes that come at once, one converts while the others wait for its file
    write_gguf(checkpoint, target, outtype=outtype, show_progress=show_progress, keep_existing=True)
    return target
