"""What a GGUF file says beside its weights: pooling, prompts, limits, the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from modernbert_llama import keys
from modernbert_llama.errors import ModelFileError
from modernbert_llama.native import read_metadata

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """The part of a model file's metadata that shapes an embedding."""

    metadata: Mapping[str, object]  # every key but the vocabulary and the embedded tokenizer
    pooling: str | None  # "cls", "mean", "last", or None where the file names none
    normalize: bool
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    context_length: int  # positions that the model can tell apart
    max_length: int  # tokens after which texts are cut
    truncate_dim: int | None
    tokenizer_json: str | None

    @classmethod
    def read(cls, path: Path) -> ModelInfo:
        """Read a file that the engine has accepted.

        Raises:
            ModelFileError: a key of the wrong type or with a value that makes no sense.
        """
        found = read_metadata(str(path))
        arch = found["general.architecture"]

        def optional(key: str, kind: type) -> object:
            value = found.get(key)
            if value is not None and not isinstance(value, kind):
                raise ModelFileError(f"{path}: key {key!r} is {type(value).__name__}, expected {kind.__name__}")
            return value

        def optional_int(key: str) -> int | None:
            value = optional(key, int)
            return value if isinstance(value, int) and value > 0 else None

        def optional_str(key: str) -> str | None:
            value = optional(key, str)
            return value if isinstance(value, str) else None

        names = {number: name for name, number in keys.POOLING_TYPES.items() if name != "none"}
        context_length = optional_int(f"{arch}.context_length") or 1
        normalize = optional(keys.ST_NORMALIZE, bool)
        if normalize is None:
            normalize = optional(f"{arch}.normalize_embeddings", bool)
        tokenizer_json = optional_str(keys.TOKENIZER_JSON)
        return cls(
            metadata=MappingProxyType({key: value for key, value in found.items() if key != keys.TOKENIZER_JSON}),
            pooling=names.get(optional_int(f"{arch}.pooling_type") or 0),
            normalize=bool(normalize),
            prompts=MappingProxyType(_prompts(path, optional_str(keys.ST_PROMPTS))),
            default_prompt_name=optional_str(keys.ST_DEFAULT_PROMPT_NAME) or None,
            context_length=context_length,
            max_length=min(optional_int(keys.ST_MAX_SEQ_LENGTH) or context_length, context_length),
            truncate_dim=_truncate_dim(optional_int(keys.ST_TRUNCATE_DIM), optional_int(f"{arch}.embedding_length")),
            tokenizer_json=tokenizer_json,
        )


def _truncate_dim(dim: int | None, width: int | None) -> int | None:
    return dim if dim is not None and width is not None and dim < width else None


def _prompts(path: Path, text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        prompts = json.loads(text)
    except ValueError:
        prompts = None
    if not isinstance(prompts, dict) or not all(isinstance(value, str) for value in prompts.values()):
        raise ModelFileError(f"{path}: key {keys.ST_PROMPTS!r} is not a JSON object of strings")
    return prompts
