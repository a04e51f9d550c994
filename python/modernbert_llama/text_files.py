"""Texts from text and JSON Lines files, and results to JSON Lines, for the command line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from modernbert_llama.errors import InputError, ModelNotFoundError

__all__ = ["atomic", "read_texts", "read_texts_or_pairs", "write_json_lines"]

Item = str | tuple[str, str]


def read_texts(texts: Sequence[str], source: str | None) -> list[str]:
    """The texts given, or those of ``source``: "-" (lines of standard input), a ``.txt`` or a ``.jsonl`` file.

    Raises:
        InputError: both or neither given, or a line that is no text.
        ModelNotFoundError: the file cannot be read.
    """
    return [item for item in _read(texts, source, _text_of) if isinstance(item, str)]


def read_texts_or_pairs(texts: Sequence[str], source: str | None) -> list[Item]:
    """As ``read_texts``; a line of JSON may be a pair: an object with "text_pair" as well, or a list of two strings."""
    return _read(texts, source, _text_or_pair_of)


def _read(texts: Sequence[str], source: str | None, parse: Callable[[object], Item | None]) -> list[Item]:
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
        return [_item_of(source, number, line, parse) for number, line in enumerate(lines, 1) if line.strip()]
    return list(lines)


def _text_of(item: object) -> str | None:
    """The text of a line of JSON: a string, or an object with a string "text"."""
    text = item.get("text") if isinstance(item, dict) else item
    return text if isinstance(text, str) else None


def _text_or_pair_of(item: object) -> str | tuple[str, str] | None:
    pair = (item.get("text"), item["text_pair"]) if isinstance(item, dict) and "text_pair" in item else item
    if isinstance(pair, (tuple, list)):
        return (pair[0], pair[1]) if len(pair) == 2 and all(isinstance(text, str) for text in pair) else None
    return _text_of(item)


def _item_of(source: str, number: int, line: str, parse: Callable[[object], Item | None]) -> Item:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}, line {number}: not JSON ({error})") from None
    parsed = parse(item)
    if parsed is None:
        raise InputError(f"{source}, line {number}: expected a string or an object with a string 'text'")
    return parsed


def write_json_lines(output: str, results: Iterable[Mapping[str, object]]) -> None:
    """Write one object a line to ``output``: "-" prints them, a ``.jsonl`` file appears whole or not at all.

    Raises:
        InputError: an output of another kind.
        ModelNotFoundError: it cannot be written.
    """
    if output == "-":
        for result in results:
            sys.stdout.write(json.dumps(result) + "\n")
        return
    if not output.endswith((".jsonl", ".ndjson")):
        raise InputError(f"--output is {output}: expected a .jsonl file, or -")
    with atomic(output) as path, path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)


@contextlib.contextmanager
def atomic(output: str) -> Iterator[Path]:
    """A temporary file beside ``output`` that becomes it on success."""
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
