"""What a sentence-transformers folder says of the steps after the encoder: pooling, Dense modules, prompts, lengths.

Reads the forms of sentence-transformers 2 to 6. A step that is not known is refused by name, never dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import CheckpointError, UnsupportedError
from modernbert_llama.jsonfile import Fields, read_json
from modernbert_llama.keys import Task
from modernbert_llama.roles import Role
from modernbert_llama.safetensors_reader import StoredTensor, read_tensors
from modernbert_llama.similarity import SIMILARITIES
from modernbert_llama.steps import ACTIVATIONS, Dense, LayerNorm, Normalize, Step, width_after

__all__ = [
    "Pipeline",
    "Splade",
    "read_modules",
    "read_pipeline",
    "read_prompts",
    "read_step",
    "refuse_unknown",
    "transformer_folder",
    "transformer_limit",
    "transformer_part",
]

_log = logging.getLogger(__name__)

# config_sentence_transformers.json's model_type
_MODEL_TYPES: Final[Mapping[str, Task]] = {
    "SentenceTransformer": "embedding",
    "CrossEncoder": "sequence-classification",
    "SparseEncoder": "sparse-embedding",
}

# sentence-transformers' names, in the order in which its flags concatenate, and ours
_POOLING = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
_POOLING_FLAGS = {
    f"pooling_mode_{name}{suffix}": name
    for name, suffix in zip(_POOLING, ("_token", "_tokens", "_tokens", "", "_tokens", ""), strict=True)
}
_POOLING_KEYS = {*_POOLING_FLAGS, "pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}
# sentence_bert_config.json: keys whose value never changes an embedding here
_TRANSFORMER_IGNORED = {"unpad_inputs", "modality_config", "transformer_task", "module_output_name"}
_MODEL_ARGS_IGNORED = {"attn_implementation", "torch_dtype", "dtype", "trust_remote_code", "add_pooling_layer"}


_TRANSFORMERS = ("Transformer", "MLMTransformer")
_POOLINGS = ("Pooling", "SpladePooling")
# the modules behind the pooling; Dropout does nothing outside training
_BEHIND = ("Dense", "Dropout", "LayerNorm", "Normalize")
_DENSE_KEYS = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
}
_SPLADE_KEYS = {
    "pooling_strategy",
    "activation_function",
    "embedding_dimension",
    "word_embedding_dimension",
    "chunk_size",
}
_EMBEDDING, _SCORES = "sentence_embedding", "scores"
# sentence_bert_config.json: the part of transformers that the first module is, and what it gives
_TRANSFORMER_OUTPUTS = {
    "feature-extraction": "token_embeddings",
    "sequence-classification": _SCORES,
    "fill-mask": "token_embeddings",  # the logits
}


@dataclass(frozen=True)
class Splade:
    """How a sparse encoder pools the logits of its tokens."""

    pooling: str  # "max" or "sum"
    activation: str  # "relu", or "log1p_relu" for a second logarithm
    max_active_dims: int | None  # the largest so many are kept


@dataclass(frozen=True)
class Pipeline:
    """The steps after the encoder. Lengths are in tokens with the special ones, dimensions in floats."""

    task: Task | None  # what the modules are for; None where config.json's architecture decides
    pooling: str  # "cls", "mean", "max", "mean_sqrt_len", "weightedmean" or "last", or several joined by "+"
    include_prompt: bool  # whether the tokens of a prompt are pooled
    steps: tuple[Step, ...]  # behind the pooling, but for a Normalize module at the end, which is ``normalize``
    normalize: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str | None
    truncate_dim: int | None
    matryoshka_dims: tuple[int, ...]  # largest first
    n_scores: int | None  # of a cross-encoder whose head is in ``steps``
    score_activation: str | None  # of a cross-encoder: a key of ACTIVATIONS; None for the default
    splade: Splade | None = None  # of a sparse encoder
    roles: Mapping[str, Role] | None = None  # of a late-interaction model: "query" and "document"


def transformer_folder(folder: Path) -> Path:
    """Where the encoder and its tokenizer lie: ``folder``, or the sub-folder that ``modules.json`` names."""
    modules = read_modules(folder)
    return folder / modules[0][1] if modules else folder


def read_pipeline(
    folder: Path, *, hidden_size: int, max_positions: int, model_max_length: int | None, config: Fields
) -> Pipeline:
    """Reads the pipeline of ``folder``; ``config`` is the encoder's config.json, for what the modules do not say."""
    modules = read_modules(folder)
    saved = Fields.read_optional(folder / "config_sentence_transformers.json")
    made = saved.string("model_type", "SentenceTransformer")
    if made not in _MODEL_TYPES:
        raise UnsupportedError(f"{saved.path}: a {made} cannot be converted; known are {', '.join(_MODEL_TYPES)}")

    pooling, include_prompt, steps, splade = _classifier_pooling(config), True, [], None
    part = transformer_part(transformer_folder(folder) / "sentence_bert_config.json")
    if part == "sequence-classification" and made != "CrossEncoder":
        raise UnsupportedError(f"{folder}: a {made} over a sequence classifier cannot be converted")
    if modules and part == "sequence-classification":
        if len(modules) > 1:
            raise UnsupportedError(f"{folder / 'modules.json'}: modules behind a sequence classifier are not known")
        width = hidden_size
    elif modules and made == "SparseEncoder":
        splade = _splade(folder, modules, config.integer("vocab_size", 50368), saved)
        width = hidden_size
    elif modules:
        kinds = [kind for kind, _ in modules]
        if part == "fill-mask":
            raise UnsupportedError(
                f"{folder}: a {made} over a masked language model (transformer_task 'fill-mask') cannot be converted"
            )
        if "Pooling" not in kinds:
            raise UnsupportedError(f"{folder / 'modules.json'} has no Pooling module: token embeddings alone")
        if kinds[1] != "Pooling" or any(kind not in _BEHIND for kind in kinds[2:]):
            raise UnsupportedError(f"{folder / 'modules.json'}: the module order {' -> '.join(kinds)} is not known")
        if made == "CrossEncoder" and kinds[-1] != "Dense":
            raise UnsupportedError(f"{folder / 'modules.json'}: the last module is {kinds[-1]}, not a Dense for scores")
        pooling, include_prompt = _pooling(folder / modules[1][1] / "config.json", hidden_size)
        width = hidden_size * len(pooling.split("+"))
        for index, (kind, where) in enumerate(modules[2:], 3):
            output = _SCORES if made == "CrossEncoder" and index == len(modules) else _EMBEDDING
            steps += read_step(kind, folder / where, width, output=output)
            width = width_after(steps[-1], width) if steps else width
    elif (folder / "1_Pooling" / "config.json").exists():
        pooling, include_prompt = _pooling(folder / "1_Pooling" / "config.json", hidden_size)
        width = hidden_size * len(pooling.split("+"))
    else:
        width = hidden_size
        _log.info("%s has no modules.json: pooling %r is config.json's classifier_pooling", folder, pooling)
    normalize = bool(steps) and isinstance(steps[-1], Normalize)

    prompts = read_prompts(saved)
    default_prompt = saved.optional_string("default_prompt_name")
    if default_prompt is not None and default_prompt not in prompts:
        raise CheckpointError(f"{saved.path}: default_prompt_name {default_prompt!r} is not one of {sorted(prompts)}")
    truncate_dim = saved.optional_integer("truncate_dim")
    if truncate_dim is not None and truncate_dim > width:
        raise saved.wrong("truncate_dim", f"at most the width of the embedding, {width}")
    limit = transformer_limit(transformer_folder(folder) / "sentence_bert_config.json") or model_max_length
    task = _MODEL_TYPES[made] if modules else None
    return Pipeline(
        task=task,
        pooling=pooling,
        include_prompt=include_prompt,
        steps=tuple(steps[:-1] if normalize else steps),
        normalize=normalize,
        max_seq_length=min(limit or max_positions, max_positions),
        prompts=prompts,
        default_prompt_name=default_prompt,
        similarity_fn_name=_similarity(saved) or ("dot" if task == "sparse-embedding" else None),
        truncate_dim=truncate_dim,
        matryoshka_dims=_matryoshka((saved, config), width),
        n_scores=width if task == "sequence-classification" and steps else None,
        score_activation=_score_activation(saved, config),
        splade=splade,
    )


def read_modules(folder: Path) -> list[tuple[str, str]]:
    """The (class name, sub-folder) pairs of modules.json; empty without one."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path}: expected a list of modules")
    modules: list[tuple[str, str]] = []
    for index, entry in enumerate(entries):
        module = Fields.of(path, entry)
        kind, where = module.string("type", ""), module.string("path", "")
        name = kind.rpartition(".")[2]
        known: tuple[str, ...] = (*_TRANSFORMERS, *_POOLINGS, "MultiVectorMask", *_BEHIND)
        if kind.startswith("pylate.") and any(name == "Pooling" for name, _ in modules):  # works on tokens alone
            known = ()
        if not kind.startswith(("sentence_transformers.", "pylate.")) or name not in known:
            raise UnsupportedError(f"{path}: module {index} is {kind!r}, which cannot be converted")
        if PurePosixPath(where).is_absolute() or ".." in PurePosixPath(where).parts or "\\" in where:
            raise CheckpointError(f"{path}: module {index} lies outside the checkpoint: {where!r}")
        modules.append((name, where))
    if modules[0][0] not in _TRANSFORMERS:
        raise UnsupportedError(f"{path}: the first module is {modules[0][0]}, not Transformer")
    return modules


def _pooling(path: Path, hidden_size: int) -> tuple[str, bool]:
    """The modes joined by "+", and whether the prompt's tokens are pooled."""
    fields = Fields.read(path)
    refuse_unknown(fields, _POOLING_KEYS)
    mode = fields.get("pooling_mode")
    if mode is None:
        modes = [name for flag, name in _POOLING_FLAGS.items() if fields.boolean(flag, False)]
        # as sentence-transformers: flags that are all false mean the mean
        modes = modes or ["mean"]
    else:
        modes = [mode] if isinstance(mode, str) else list(fields.strings("pooling_mode") or ())
    for mode in modes:
        if mode not in _POOLING:
            raise UnsupportedError(f"{path}: pooling {mode!r} cannot be converted; known are {', '.join(_POOLING)}")
    if not modes:
        raise fields.wrong("pooling_mode", "at least one mode")
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if fields.integer(key, hidden_size) != hidden_size:
            raise fields.wrong(key, f"the hidden size, {hidden_size}")
    return "+".join(_POOLING[mode] for mode in modes), fields.boolean("include_prompt", True)


def _splade(folder: Path, modules: list[tuple[str, str]], vocab_size: int, saved: Fields) -> Splade:
    kinds = [kind for kind, _ in modules]
    if kinds[1:] != ["SpladePooling"]:
        raise UnsupportedError(f"{folder / 'modules.json'}: the modules {' -> '.join(kinds)} are not known")
    fields = Fields.read(folder / modules[1][1] / "config.json")
    refuse_unknown(fields, _SPLADE_KEYS)
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if (fields.optional_integer(key) or vocab_size) != vocab_size:
            raise fields.wrong(key, f"the size of the vocabulary, {vocab_size}")
    pooling = fields.string("pooling_strategy", "max")
    activation = fields.string("activation_function", "relu")
    if pooling not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise UnsupportedError(f"{fields.path}: {pooling!r} pooling of {activation!r} is not known")
    return Splade(pooling, activation, saved.optional_integer("max_active_dims"))


def _classifier_pooling(config: Fields) -> str:
    pooling = config.string("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise UnsupportedError(f"{config.path}: classifier_pooling {pooling!r} is not known; it can be cls or mean")
    return pooling


def read_step(kind: str, folder: Path, width: int, features: str = _EMBEDDING, output: str | None = None) -> list[Step]:
    """The step of one module behind the encoder, or none for a module that does nothing.

    ``features``: what the module must take, "sentence_embedding" or "token_embeddings"; ``output`` what it must give,
    by default the same.
    """
    fields = Fields.read_optional(folder / "config.json")
    # as sentence-transformers: a Dense module that does not say takes what its kind of model has
    default = features if kind == "Dense" else _EMBEDDING
    for key, expected in (("module_input_name", features), ("module_output_name", output or features)):
        name = fields.string(key, default)
        if name != expected:
            raise UnsupportedError(f"{fields.path}: a {kind} module with {key}={name!r} cannot be converted")
    if kind == "Dense":
        return [_dense(folder, fields, width)]
    if kind == "LayerNorm":
        weights = _Weights.read(folder)
        step = LayerNorm(weights.take("norm.weight", width), weights.take("norm.bias", width))
        weights.check_all_taken()
        return [step]
    return [Normalize()] if kind == "Normalize" else []


def _dense(folder: Path, fields: Fields, width: int) -> Dense:
    refuse_unknown(fields, _DENSE_KEYS)
    if fields.integer("in_features", width) != width:
        raise fields.wrong("in_features", f"the width of what comes before, {width}")
    outputs = fields.integer("out_features", width)
    path = fields.string("activation_function", "torch.nn.modules.activation.Tanh")
    activation = path.rpartition(".")[2]
    if not path.startswith("torch.") or activation not in (*ACTIVATIONS, "PReLU"):
        raise UnsupportedError(f"{fields.path}: the activation {path!r} of a Dense module cannot be converted")
    use_residual = fields.boolean("use_residual", False)
    weights = _Weights.read(folder)
    step = Dense(
        activation,
        weights.take("linear.weight", outputs, width),
        weights.take("linear.bias", outputs) if fields.boolean("bias", True) else None,
        use_residual,
        weights.take("residual.weight", outputs, width) if use_residual and outputs != width else None,
        weights.take("activation_function.weight", 1) if activation == "PReLU" else None,
    )
    weights.check_all_taken()
    return step


@dataclass(frozen=True)
class _Weights:
    """The weights of one module's folder; each must be taken, with its shape."""

    path: Path
    tensors: dict[str, StoredTensor]

    @classmethod
    def read(cls, folder: Path) -> _Weights:
        path = folder / "model.safetensors"
        if not path.is_file() and (folder / "pytorch_model.bin").is_file():
            raise UnsupportedError(
                f"{folder} has only pytorch_model.bin, a pickle, which can run code when read: load the model with "
                "sentence-transformers and save it again, which writes safetensors"
            )
        return cls(path, read_tensors(path))

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} lacks tensor {name!r}, of shape {list(shape)}")
        stored = self.tensors.pop(name)
        if stored.shape != shape:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has shape {list(stored.shape)}, expected {list(shape)}"
            )
        return stored.read()

    def check_all_taken(self) -> None:
        for name in self.tensors:
            raise UnsupportedError(f"{self.path}: tensor {name!r} cannot be converted")


def _similarity(saved: Fields) -> str | None:
    name = saved.optional_string("similarity_fn_name")
    if name is not None and name not in SIMILARITIES:
        raise UnsupportedError(
            f"{saved.path}: similarity_fn_name {name!r} is not known; known are {', '.join(SIMILARITIES)}"
        )
    return name


def _score_activation(saved: Fields, config: Fields) -> str | None:
    """The class of torch.nn behind the logits, from where the releases 2 to 6 look for it, in their order."""
    places = (
        (saved, saved.optional_string("activation_fn")),
        (config, config.object("sentence_transformers").optional_string("activation_fn")),
        (config, config.optional_string("sbert_ce_default_activation_function")),
    )
    for fields, path in places:
        if path is None:
            continue
        if not path.startswith("torch."):
            _log.warning(
                "%s: activation_fn %r is code that sentence-transformers does not trust either", fields.path, path
            )
            continue
        name = path.rpartition(".")[2]
        if name not in ACTIVATIONS:
            raise UnsupportedError(f"{fields.path}: the activation_fn {path!r} cannot be converted")
        return name
    return None


def transformer_part(path: Path) -> str:
    fields = Fields.read_optional(path)
    part = fields.string("transformer_task", "feature-extraction")
    if part not in _TRANSFORMER_OUTPUTS:
        raise UnsupportedError(f"{path}: transformer_task {part!r} cannot be converted")
    output = fields.string("module_output_name", _TRANSFORMER_OUTPUTS[part])
    if output != _TRANSFORMER_OUTPUTS[part]:
        raise UnsupportedError(f"{path}: module_output_name {output!r} cannot be converted")
    return part


def transformer_limit(path: Path, also: Collection[str] = ()) -> int | None:
    """The max_seq_length of sentence_bert_config.json; refuses what would change the tokens.

    ``also``: keys that the caller reads.
    """
    fields = Fields.read_optional(path)
    limit = fields.optional_integer("max_seq_length")
    for key, value in fields.values.items():
        if key in ("model_args", "model_kwargs"):
            refuse_unknown(fields.object(key), _MODEL_ARGS_IGNORED, key)
        elif key in ("tokenizer_args", "processor_kwargs"):
            arguments = fields.object(key)
            refuse_unknown(arguments, {"model_max_length", "trust_remote_code"}, key)
            limit = arguments.optional_integer("model_max_length") or limit
        elif key not in {*_TRANSFORMER_IGNORED, "max_seq_length", *also} and value:
            raise UnsupportedError(f"{path}: {key}={value!r} cannot be converted")
    return limit


def refuse_unknown(fields: Fields, known: Collection[str], inside: str = "") -> None:
    for key, value in fields.values.items():
        if key not in known and value not in (None, False, {}, []):
            raise UnsupportedError(f"{fields.path}: {inside + '.' if inside else ''}{key}={value!r} is not known")


def read_prompts(saved: Fields) -> dict[str, str]:
    prompts = saved.object("prompts")
    return {name: prompts.string(name, "") for name in prompts.values}


def _matryoshka(sources: tuple[Fields, ...], width: int) -> tuple[int, ...]:
    for fields in sources:
        for key in ("matryoshka_dims", "matryoshka_dimensions"):
            dims = fields.get(key)
            if dims is None:
                continue
            if not isinstance(dims, list) or not all(type(dim) is int and 0 < dim <= width for dim in dims):
                raise fields.wrong(key, f"a list of dimensions from 1 to {width}")
            return tuple(sorted(set(dims), reverse=True))
    return ()
