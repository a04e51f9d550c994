"""What a GGUF file says beside its weights: its task, pooling, prompts, limits, the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import ModelFileError
from modernbert_llama.native import read_metadata
from modernbert_llama.roles import Role, decode_roles
from modernbert_llama.similarity import LATE_SIMILARITIES, SIMILARITIES
from modernbert_llama.steps import ACTIVATIONS, Step, decode_steps, width_after

__all__ = ["ModelInfo"]

_ARRAYS = (keys.ST_STEP_ARRAY, keys.HEAD_ARRAY)  # how the keys of weights begin


@dataclass(frozen=True)
class ModelInfo:
    """The part of a model file's metadata that shapes an embedding."""

    metadata: Mapping[str, object]  # every key but the vocabulary, the embedded tokenizer and arrays of weights
    task: keys.Task  # what the model is for
    labels: tuple[str, ...]  # a name for each output of the head
    problem_type: str | None
    head_activation: str
    score_activation: str | None  # behind the logits of a reranker; None for the default
    norm_eps: float
    pooling: str | None  # "cls", "mean+max", ..., or None where the file names none
    classifier_pooling: str | None  # "cls" or "mean", below a head of llama.cpp's
    include_prompt: bool  # whether a prompt's tokens are pooled
    steps: tuple[Step, ...]  # between pooling and normalize
    normalize: bool
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    context_length: int  # positions that the model can tell apart
    max_length: int  # tokens after which texts are cut
    truncate_dim: int | None
    similarity: str
    splade_pooling: str
    splade_activation: str
    max_active_dims: int | None  # of a sparse embedding
    roles: Mapping[str, Role]  # of a late-interaction model: "query" and "document"
    tokenizer_json: str | None
    split_special_tokens: bool

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

        def choice(key: str, first: str, second: str) -> str:
            value = optional_str(key) or first
            if value not in (first, second):
                raise ModelFileError(f"{path}: key {key!r} is {value!r}, expected {first!r} or {second!r}")
            return value

        names = {number: name for name, number in keys.POOLING_TYPES.items() if name != "none"}
        context_length = optional_int(f"{arch}.context_length") or 1
        normalize = optional(keys.ST_NORMALIZE, bool)
        if normalize is None:
            normalize = optional(f"{arch}.normalize_embeddings", bool)
        norm_eps = optional(f"{arch}.attention.layer_norm_epsilon", float)
        tokenizer_json = optional_str(keys.TOKENIZER_JSON)
        pooling_type = optional_int(f"{arch}.pooling_type") or 0
        classifier_pooling = names.get(optional_int(keys.CLASSIFIER_POOLING.format(arch=arch)) or 0)
        pooling = optional_str(keys.ST_POOLING) or names.get(pooling_type)
        if pooling_type == keys.POOLING_RANK:
            pooling = classifier_pooling
        include_prompt = optional(keys.ST_INCLUDE_PROMPT, bool)
        roles = _roles(path, optional_str(keys.MULTI_VECTOR))
        similarity = optional_str(keys.ST_SIMILARITY) or ("maxsim" if roles else "cosine")
        if similarity not in (LATE_SIMILARITIES if roles else SIMILARITIES):
            raise ModelFileError(f"{path}: key {keys.ST_SIMILARITY!r} is {similarity!r}, which is not known")

        def array(name: str) -> NDArray[np.float32] | None:
            value = optional(keys.ST_STEP_ARRAY + name, np.ndarray)
            return value if isinstance(value, np.ndarray) else None

        width = (optional_int(f"{arch}.embedding_length") or 1) * len((pooling or "").split("+"))
        steps = _steps(path, optional_str(keys.ST_STEPS), array, width)
        for step in steps:
            width = width_after(step, width)
        arrays = {key for key, value in found.items() if isinstance(value, np.ndarray) and key.startswith(_ARRAYS)}
        hidden = {keys.TOKENIZER_JSON, *arrays}
        return cls(
            metadata=MappingProxyType({key: value for key, value in found.items() if key not in hidden}),
            task=_task(path, optional_str(keys.TASK)),
            labels=_labels(path, optional(keys.CLASSIFIER_LABELS.format(arch=arch), list)),
            problem_type=optional_str(keys.PROBLEM_TYPE),
            head_activation=optional_str(keys.HEAD_ACTIVATION) or "gelu",
            score_activation=_score_activation(path, optional_str(keys.SCORE_ACTIVATION)),
            norm_eps=norm_eps if isinstance(norm_eps, float) else 1e-5,
            pooling=pooling,
            classifier_pooling=classifier_pooling,
            include_prompt=include_prompt is not False,
            steps=steps,
            normalize=bool(normalize),
            prompts=MappingProxyType(_prompts(path, optional_str(keys.ST_PROMPTS))),
            default_prompt_name=optional_str(keys.ST_DEFAULT_PROMPT_NAME) or None,
            context_length=context_length,
            max_length=min(optional_int(keys.ST_MAX_SEQ_LENGTH) or context_length, context_length),
            truncate_dim=_truncate_dim(optional_int(keys.ST_TRUNCATE_DIM), width),
            similarity=similarity,
            splade_pooling=choice(keys.ST_SPLADE_POOLING, "max", "sum"),
            splade_activation=choice(keys.ST_SPLADE_ACTIVATION, "relu", "log1p_relu"),
            max_active_dims=optional_int(keys.ST_MAX_ACTIVE_DIMS),
            roles=MappingProxyType(roles),
            tokenizer_json=tokenizer_json,
            split_special_tokens=bool(optional(keys.SPLIT_SPECIAL_TOKENS, bool)),
        )


def _task(path: Path, name: str | None) -> keys.Task:
    for task in keys.TASKS:
        if task == (name or "embedding"):
            return task
    raise ModelFileError(f"{path}: key {keys.TASK!r} is {name!r}, expected one of {', '.join(keys.TASKS)}")


def _score_activation(path: Path, name: str | None) -> str | None:
    if name is not None and name not in ACTIVATIONS:
        raise ModelFileError(f"{path}: key {keys.SCORE_ACTIVATION!r} is {name!r}, which is not known")
    return name


def _labels(path: Path, value: object) -> tuple[str, ...]:
    labels = value if isinstance(value, list) else []
    if not all(isinstance(label, str) for label in labels):
        raise ModelFileError(f"{path}: the labels of the classifier are not strings")
    return tuple(labels)


def _roles(path: Path, text: str | None) -> dict[str, Role]:
    try:
        return {} if text is None else decode_roles(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: key {keys.MULTI_VECTOR!r} cannot be read: {error}") from error


def _truncate_dim(dim: int | None, width: int) -> int | None:
    return dim if dim is not None and dim < width else None


def _steps(
    path: Path, text: str | None, array: Callable[[str], NDArray[np.float32] | None], width: int
) -> tuple[Step, ...]:
    try:
        return () if text is None else decode_steps(text, array, width)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: key {keys.ST_STEPS!r} cannot be read: {error}") from error


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
