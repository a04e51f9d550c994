"""Texts from and vectors to files, for the command line ``embed``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from modernbert_llama.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    from modernbert_llama.embedder import Embedder

__all__ = ["embed_to", "read_texts"]


def read_texts(texts: Sequence[str], source: str | None) -> list[str]:
    """The texts given, or those of ``source``: "-" (lines of standard input), a ``.txt`` or a ``.jsonl`` file.

    Raises:
        InputError: both or neither given, or a line that is no text.
        ModelNotFoundError: the file cannot be read.
    """
    if (source is None) == (not texts):
        raise InputError("give texts or --input, one of the two")
    if source is None:
        return list(texts)
    if source == "-":
        return [line.rstrip("\r\n") for line in sys.stdin]
    try:
        # only newlines end a text: str.splitlines would also break at form feeds and the like
        with Path(source).open(encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise ModelNotFoundError(f"{source}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 ({error})") from error
    if source.endswith((".jsonl", ".ndjson")):
        return [_text_of(source, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return lines


def _text_of(source: str, number: int, line: str) -> str:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise InputError(f"{source}, line {number}: not JSON ({error})") from None
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise InputError(f"{source}, line {number}: expected a string or an object with a string 'text'")
    return text


def embed_to(
    output: str,
    embedder: Embedder,
    texts: Sequence[str],
    *,
    normalize: bool | None,
    prompt_name: str | None,
    prompt: str | None,
    dimensions: int | None,
    truncate: bool,
    max_length: int | None,
) -> None:
    """Embed ``texts`` and write them to ``output``: a ``.npy`` file, a ``.jsonl`` file, or "-" for JSON lines.

    A file appears whole or not at all.

    Raises:
        InputError: an output of another kind.
    """
    if output != "-" and not output.endswith((".npy", ".jsonl")):
        raise InputError(f"--output is {output}: expected a .npy or .jsonl file, or -")
    blocks = embedder.embed_batches(
        texts,
        batch_size=256,
        normalize=normalize,
        prompt_name=prompt_name,
        prompt=prompt,
        dimensions=dimensions,
        truncate=truncate,
        max_length=max_length,
    )
    with tqdm(total=len(texts), unit="text", disable=None if len(texts) > 256 else True) as bar:

        def counted() -> Iterator[NDArray[np.float32]]:
            for block in blocks:
                yield block
                bar.update(len(block))

        if output == "-":
            _write_lines(sys.stdout, texts, counted())
        elif output.endswith(".npy"):
            width = dimensions or embedder.dim
            with _atomic(output) as path, path.open("wb") as file:
                # np.save would close over everything at once; one block at a time keeps memory bounded
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": (len(texts), width)}
                )
                for block in counted():
                    file.write(block.astype("<f4", copy=False).tobytes())
        else:
            with _atomic(output) as path, path.open("w", encoding="utf-8") as lines:
                _write_lines(lines, texts, counted())


def _write_lines(file: TextIO, texts: Sequence[str], blocks: Iterator[NDArray[np.float32]]) -> None:
    index = 0
    for block in blocks:
        for vector in block:
            # repr of a float32 is the shortest text that reads back the same
            values = "[" + ", ".join(str(value) for value in vector) + "]"
            file.write(f'{{"text": {json.dumps(texts[index])}, "embedding": {values}}}\n')
            index += 1


@contextlib.contextmanager
def _atomic(output: str) -> Iterator[Path]:
    target = Path(output)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ModelNotFoundError(f"{target}: cannot be written ({error.strerror})") from error
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)
