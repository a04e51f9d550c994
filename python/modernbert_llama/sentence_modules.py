"""What a sentence-transformers folder says of the steps after the encoder: pooling, normalize, prompts, lengths.

Reads the forms of sentence-transformers 2 to 6. A step that is not known is refused by name, never dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modernbert_llama.errors import CheckpointError, UnsupportedError
from modernbert_llama.jsonfile import Fields, read_json

__all__ = ["Pipeline", "read_pipeline", "transformer_folder"]

_log = logging.getLogger(__name__)

_POOLING = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_KEYS = {*_POOLING_FLAGS, "pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}
# sentence_bert_config.json: keys whose value never changes an embedding here
_TRANSFORMER_IGNORED = {"unpad_inputs", "modality_config", "transformer_task", "module_output_name"}
_MODEL_ARGS_IGNORED = {"attn_implementation", "torch_dtype", "dtype", "trust_remote_code", "add_pooling_layer"}


@dataclass(frozen=True)
class Pipeline:
    """The steps after the encoder. Lengths are in tokens with the special ones, dimensions in floats."""

    pooling: str  # "cls", "mean" or "last"
    normalize: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str | None
    truncate_dim: int | None
    matryoshka_dims: tuple[int, ...]  # largest first


def transformer_folder(folder: Path) -> Path:
    """Where the encoder and its tokenizer lie: ``folder``, or the sub-folder that ``modules.json`` names."""
    modules = _modules(folder)
    return folder / modules[0][1] if modules else folder


def read_pipeline(
    folder: Path, *, hidden_size: int, max_positions: int, model_max_length: int | None, config: Fields
) -> Pipeline:
    """Reads the pipeline of ``folder``; ``config`` is the encoder's config.json, for what the modules do not say."""
    modules = _modules(folder)
    saved = Fields.read_optional(folder / "config_sentence_transformers.json")
    kind = saved.string("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UnsupportedError(f"{saved.path}: a {kind} cannot be converted, only a SentenceTransformer can")

    normalize = False
    if modules:
        kinds = [kind for kind, _ in modules]
        if "Pooling" not in kinds:
            raise UnsupportedError(f"{folder / 'modules.json'} has no Pooling module: token embeddings alone")
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise UnsupportedError(f"{folder / 'modules.json'}: the module order {' -> '.join(kinds)} is not known")
        pooling = _pooling(folder / modules[1][1] / "config.json", hidden_size)
        if len(modules) == 3:
            _check_normalize(folder / modules[2][1] / "config.json")
            normalize = True
    elif (folder / "1_Pooling" / "config.json").exists():
        pooling = _pooling(folder / "1_Pooling" / "config.json", hidden_size)
    else:
        pooling = _classifier_pooling(config)
        _log.info("%s has no modules.json: pooling %r is config.json's classifier_pooling", folder, pooling)

    prompts = _prompts(saved)
    default_prompt = saved.optional_string("default_prompt_name")
    if default_prompt is not None and default_prompt not in prompts:
        raise CheckpointError(f"{saved.path}: default_prompt_name {default_prompt!r} is not one of {sorted(prompts)}")
    truncate_dim = saved.optional_integer("truncate_dim")
    if truncate_dim is not None and truncate_dim > hidden_size:
        raise saved.wrong("truncate_dim", f"at most the hidden size, {hidden_size}")
    limit = _transformer_limit(transformer_folder(folder) / "sentence_bert_config.json") or model_max_length
    return Pipeline(
        pooling=pooling,
        normalize=normalize,
        max_seq_length=min(limit or max_positions, max_positions),
        prompts=prompts,
        default_prompt_name=default_prompt,
        similarity_fn_name=saved.optional_string("similarity_fn_name"),
        truncate_dim=truncate_dim,
        matryoshka_dims=_matryoshka((saved, config), hidden_size),
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The (class name, sub-folder) pairs of modules.json; empty without one."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path}: expected a list of modules")
    modules = []
    for index, entry in enumerate(entries):
        module = Fields.of(path, entry)
        kind, where = module.string("type", ""), module.string("path", "")
        name = kind.rpartition(".")[2]
        if not kind.startswith("sentence_transformers.") or name not in ("Transformer", "Pooling", "Normalize"):
            raise UnsupportedError(f"{path}: module {index} is {kind!r}, which cannot be converted")
        if PurePosixPath(where).is_absolute() or ".." in PurePosixPath(where).parts or "\\" in where:
            raise CheckpointError(f"{path}: module {index} lies outside the checkpoint: {where!r}")
        modules.append((name, where))
    if modules[0][0] != "Transformer":
        raise UnsupportedError(f"{path}: the first module is {modules[0][0]}, not Transformer")
    return modules


def _pooling(path: Path, hidden_size: int) -> str:
    fields = Fields.read(path)
    _refuse_unknown(fields, _POOLING_KEYS)
    mode = fields.get("pooling_mode")
    if mode is None:
        modes = [name for flag, name in _POOLING_FLAGS.items() if fields.boolean(flag, False)]
        # as sentence-transformers: flags that are all false mean the mean
        modes = modes or ["mean"]
    else:
        modes = [mode] if isinstance(mode, str) else list(fields.strings("pooling_mode") or ())
    if len(modes) != 1:
        raise UnsupportedError(f"{path}: pooling that concatenates {' + '.join(modes)} cannot be converted")
    if modes[0] not in _POOLING:
        raise UnsupportedError(f"{path}: pooling {modes[0]!r} cannot be converted; known are {', '.join(_POOLING)}")
    if not fields.boolean("include_prompt", True) and modes[0] != "lasttoken":
        raise UnsupportedError(f"{path}: include_prompt=false (pooling without the prompt) cannot be converted")
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if fields.integer(key, hidden_size) != hidden_size:
            raise fields.wrong(key, f"the hidden size, {hidden_size}")
    return _POOLING[modes[0]]


def _classifier_pooling(config: Fields) -> str:
    pooling = config.string("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise UnsupportedError(f"{config.path}: classifier_pooling {pooling!r} is not known; it can be cls or mean")
    return pooling


def _check_normalize(path: Path) -> None:
    fields = Fields.read_optional(path)
    for key in ("module_input_name", "module_output_name"):
        name = fields.string(key, "sentence_embedding")
        if name != "sentence_embedding":
            raise UnsupportedError(f"{path}: a Normalize module with {key}={name!r} cannot be converted")


def _transformer_limit(path: Path) -> int | None:
    """The max_seq_length of sentence_bert_config.json; refuses what would change the tokens or the output."""
    fields = Fields.read_optional(path)
    task = fields.string("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedError(f"{path}: transformer_task {task!r} cannot be converted")
    output = fields.string("module_output_name", "token_embeddings")
    if output != "token_embeddings":
        raise UnsupportedError(f"{path}: module_output_name {output!r} cannot be converted")
    limit = fields.optional_integer("max_seq_length")
    for key, value in fields.values.items():
        if key in ("model_args", "model_kwargs"):
            _refuse_unknown(fields.object(key), _MODEL_ARGS_IGNORED, key)
        elif key in ("tokenizer_args", "processor_kwargs"):
            arguments = fields.object(key)
            _refuse_unknown(arguments, {"model_max_length", "trust_remote_code"}, key)
            limit = arguments.optional_integer("model_max_length") or limit
        elif key not in {*_TRANSFORMER_IGNORED, "max_seq_length"} and value:
            raise UnsupportedError(f"{path}: {key}={value!r} cannot be converted")
    return limit


def _refuse_unknown(fields: Fields, known: Collection[str], inside: str = "") -> None:
    for key, value in fields.values.items():
        if key not in known and value not in (None, False, {}, []):
            raise UnsupportedError(f"{fields.path}: {inside + '.' if inside else ''}{key}={value!r} is not known")


def _prompts(saved: Fields) -> dict[str, str]:
    prompts = saved.object("prompts")
    return {name: prompts.string(name, "") for name in prompts.values}


def _matryoshka(sources: tuple[Fields, ...], hidden_size: int) -> tuple[int, ...]:
    for fields in sources:
        for key in ("matryoshka_dims", "matryoshka_dimensions"):
            dims = fields.get(key)
            if dims is None:
                continue
            if not isinstance(dims, list) or not all(type(dim) is int and 0 < dim <= hidden_size for dim in dims):
                raise fields.wrong(key, f"a list of dimensions from 1 to {hidden_size}")
            return tuple(sorted(set(dims), reverse=True))
    return ()
