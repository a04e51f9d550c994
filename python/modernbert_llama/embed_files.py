"""Vectors to files, for the command line ``embed``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from modernbert_llama.errors import InputError
from modernbert_llama.precision import Precision, quantize_embeddings, quantized_width
from modernbert_llama.text_files import atomic

if TYPE_CHECKING:
    from modernbert_llama.embedder import Embedder

__all__ = ["embed_to"]


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
    precision: Precision = "float32",
) -> None:
    """Embed ``texts`` and write them to ``output``: a ``.npy`` file, a ``.jsonl`` file, or "-" for JSON lines.

    A file appears whole or not at all.

    Raises:
        InputError: an output of another kind.
    """
    if output != "-" and not output.endswith((".npy", ".jsonl")):
        raise InputError(f"--output is {output}: expected a .npy or .jsonl file, or -")
    calibrated = precision in ("int8", "uint8")  # over all texts: in memory at once
    blocks = embedder.embed_batches(
        texts,
        batch_size=256,
        normalize=normalize,
        prompt_name=prompt_name,
        prompt=prompt,
        dimensions=dimensions,
        truncate=truncate,
        max_length=max_length,
        precision="float32" if calibrated else precision,
    )
    with tqdm(total=len(texts), unit="text", disable=None if len(texts) > 256 else True) as bar:

        def counted() -> Iterator[NDArray[Any]]:
            for block in blocks:
                yield block
                bar.update(len(block))

        def results() -> Iterator[NDArray[Any]]:
            if calibrated and texts:
                yield quantize_embeddings(np.concatenate(list(counted())), precision)
            else:
                yield from counted()

        if output == "-":
            _write_lines(sys.stdout, texts, results())
        elif output.endswith(".npy"):
            width = quantized_width(dimensions or embedder.dim, precision)
            dtype = {"float32": "<f4", "int8": "|i1", "binary": "|i1"}.get(precision, "|u1")
            with atomic(output) as path, path.open("wb") as file:
                # np.save would close over everything at once; one block at a time keeps memory bounded
                np.lib.format.write_array_header_1_0(
                    file, {"descr": dtype, "fortran_order": False, "shape": (len(texts), width)}
                )
                for block in results():
                    file.write(block.astype(dtype, copy=False).tobytes())
        else:
            with atomic(output) as path, path.open("w", encoding="utf-8") as lines:
                _write_lines(lines, texts, results())


def _write_lines(file: TextIO, texts: Sequence[str], blocks: Iterator[NDArray[Any]]) -> None:
    index = 0
    for block in blocks:
        for vector in block:
            # repr of a float32 is the shortest text that reads back the same
            values = "[" + ", ".join(str(value) for value in vector) + "]"
            file.write(f'{{"text": {json.dumps(texts[index])}, "embedding": {values}}}\n')
            index += 1
