"""JSON files of a checkpoint, read with types checked: every complaint names the file and the key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modernbert_llama.errors import CheckpointError, ModelNotFoundError

__all__ = ["Fields", "read_json", "read_text"]


def read_text(path: Path) -> str:
    """The UTF-8 text of ``path``; ``ModelNotFoundError`` if it cannot be read, ``CheckpointError`` if not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> object:
    """The parsed content of ``path``; ``CheckpointError`` if it is not JSON."""
    try:
        value: object = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return value


@dataclass(frozen=True)
class Fields:
    """A JSON object and the file it came from. The getters treat ``null`` like an absent key."""

    path: Path
    values: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> Fields:
        """The object in ``path``, which must exist."""
        return cls.of(path, read_json(path))

    @classmethod
    def read_optional(cls, path: Path) -> Fields:
        """As ``read``, but an absent file is an empty object."""
        return cls.read(path) if path.exists() else cls(path, {})

    @classmethod
    def of(cls, path: Path, value: object) -> Fields:
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {_shown(value)}")
        return cls(path, value)

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error to raise when the value at ``key`` is not what was expected."""
        return CheckpointError(f"{self.path}: {key!r} is {_shown(self.values.get(key))}, expected {expected}")

    def get(self, key: str) -> object:
        return self.values.get(key)

    def object(self, key: str) -> Fields:
        """The object at ``key``; empty when absent."""
        value = self.values.get(key)
        if value is None:
            return Fields(self.path, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(self.path, value)

    def integer(self, key: str, default: int, *, minimum: int = 1) -> int:
        value = self.optional_integer(key, minimum=minimum)
        return default if value is None else value

    def optional_integer(self, key: str, *, minimum: int = 1) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < 2**31:
            raise self.wrong(key, f"an integer of at least {minimum}")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.wrong(key, "a positive number")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def string(self, key: str, default: str) -> str:
        value = self.optional_string(key)
        return default if value is None else value

    def optional_string(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """The list of strings at ``key``, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
