"""A Hugging Face ModernBERT folder as typed, checked facts. Nothing outside this module and its readers
(``safetensors_reader``, ``rope``, ``heads``, ``sentence_modules``, ``hf_tokenizer``) knows Hugging Face's names.

What is not understood is refused with a sentence that names it. The one thing left out on purpose is the
masked-language-model head of a folder whose sentence-transformers modules embed: there it is left out too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modernbert_llama.errors import CheckpointError, ModelNotFoundError, UnsupportedError
from modernbert_llama.ggml_vocabulary import Vocabulary, make_vocabulary
from modernbert_llama.heads import ARCHITECTURES, MASKED_LM, STANFORD, Head, read_architecture, read_head
from modernbert_llama.hf_tokenizer import TokenizerSpec, read_tokenizer
from modernbert_llama.jsonfile import Fields
from modernbert_llama.keys import Task
from modernbert_llama.late_modules import STANFORD_WEIGHT, read_late_interaction
from modernbert_llama.rope import FULL, SLIDING, Rope, read_rope
from modernbert_llama.safetensors_reader import StoredTensor, read_tensors, take_tensor
from modernbert_llama.sentence_modules import Pipeline, read_pipeline, transformer_folder

__all__ = ["Checkpoint", "ModelConfig", "Pipeline", "Weight", "content_sha256", "read_checkpoint"]

_log = logging.getLogger(__name__)

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"

Part = Literal[
    "token_embd",
    "token_embd_norm",
    "output_norm",
    "attn_norm",
    "attn_qkv",
    "attn_output",
    "ffn_norm",
    "ffn_in",
    "ffn_out",
]


@dataclass(frozen=True)
class ModelConfig:
    """The encoder's shape. ``window`` is the full width in tokens of local attention: |i - j| <= window / 2."""

    vocab_size: int
    hidden_size: int
    ffn_size: int
    n_layers: int
    n_heads: int
    max_positions: int
    norm_eps: float
    activation: str
    window: int
    global_rope: Rope
    local_rope: Rope
    local_layers: tuple[bool, ...]  # by layer: True for local (sliding-window) attention
    attention_bias: bool
    mlp_bias: bool
    norm_bias: bool


@dataclass(frozen=True)
class Weight:
    """One tensor of the encoder: which ``part`` of which ``layer`` (None outside the layers), and where it is stored.

    Matrices are (outputs, inputs). ``ffn_in`` is the fused feed-forward input: the first ``ffn_size`` rows are
    activated (gate), the second multiply (up).
    """

    part: Part
    layer: int | None
    is_bias: bool
    shape: tuple[int, ...]
    stored: StoredTensor


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, checked; the weights are read only when asked for."""

    folder: Path
    name: str
    config: ModelConfig
    pipeline: Pipeline
    tokenizer: TokenizerSpec
    vocabulary: Vocabulary
    weights: tuple[Weight, ...]
    task: Task
    head: Head | None  # without weights where the modules of the pipeline are the head


def read_checkpoint(folder: Path, *, name: str | None = None) -> Checkpoint:
    """Reads and checks everything but the weights' values.

    Raises ``ModelNotFoundError`` (no such folder, no config.json), ``CheckpointError`` (damaged, incomplete,
    contradictory) or ``UnsupportedError`` (sound, but holding a part that is not known).
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder")
    root = transformer_folder(folder)
    if not (root / "config.json").is_file():
        raise ModelNotFoundError(f"{root} has no config.json: it is not a Hugging Face checkpoint")
    if (root / "adapter_config.json").exists():
        raise UnsupportedError(
            f"{root / 'adapter_config.json'}: an adapter cannot be converted: merge it and save the model"
        )
    fields = Fields.read(root / "config.json")
    config = read_config(fields)
    architecture = read_architecture(fields)
    tokenizer = read_tokenizer(root)
    tensors = _stored_tensors(root)
    pipeline = read_late_interaction(
        folder,
        hidden_size=config.hidden_size,
        max_positions=config.max_positions,
        tokenizer=tokenizer,
        tensors=tensors,
        config=fields,
    ) or read_pipeline(
        folder,
        hidden_size=config.hidden_size,
        max_positions=config.max_positions,
        model_max_length=tokenizer.model_max_length,
        config=fields,
    )
    weights, others = _match_weights(config, tensors)
    if architecture == STANFORD:
        others.pop(STANFORD_WEIGHT)  # in the pipeline
    task = pipeline.task or ARCHITECTURES[architecture]
    head = read_head(fields, architecture, config.hidden_size, config.vocab_size, others)
    if task == "sequence-classification" and pipeline.n_scores is not None:
        head = Head.in_modules(pipeline.n_scores)
    if task == "multi-vector":
        head = None
    if task == "embedding" or (task == "fill-mask" and head is None):
        task, head = "embedding", None
    if task == "sparse-embedding" and (head is None or architecture != MASKED_LM):
        raise UnsupportedError(f"{folder}: a sparse encoder needs the head of a masked language model, and has none")
    _check_leftover(others, head, architecture)
    return Checkpoint(
        folder=folder,
        name=name or folder.resolve().name,
        config=config,
        pipeline=pipeline,
        tokenizer=tokenizer,
        vocabulary=make_vocabulary(tokenizer, config.vocab_size),
        weights=weights,
        task=task,
        head=head,
    )


def read_config(fields: Fields) -> ModelConfig:
    """config.json as transformers 4 and 5 write it, with transformers' defaults for absent keys."""
    kind = fields.get("model_type")
    if kind != "modernbert":
        raise UnsupportedError(f"{fields.path}: model_type is {kind!r}, only 'modernbert' can be converted")
    quantised = fields.object("quantization_config")
    if quantised.values:
        method = quantised.get("quant_method") or "an unnamed method"
        raise UnsupportedError(f"{fields.path}: the checkpoint is quantised ({method}): convert its original")
    hidden, heads = fields.integer("hidden_size", 768), fields.integer("num_attention_heads", 12)
    if hidden % heads or hidden // heads % 2:
        raise fields.wrong("hidden_size", f"num_attention_heads ({heads}) times an even head size")
    window = fields.integer("local_attention", 128)
    if window % 2:
        raise fields.wrong("local_attention", "an even window")
    activation = fields.string("hidden_activation", "gelu")
    if activation not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{fields.path}: hidden_activation {activation!r} is not known; known are {', '.join(_ACTIVATIONS)}"
        )
    n_layers = fields.integer("num_hidden_layers", 22)
    max_positions = fields.integer("max_position_embeddings", 8192)
    global_rope, local_rope = read_rope(fields, max_positions)
    return ModelConfig(
        vocab_size=fields.integer("vocab_size", 50368),
        hidden_size=hidden,
        ffn_size=fields.integer("intermediate_size", 1152),
        n_layers=n_layers,
        n_heads=heads,
        max_positions=max_positions,
        # layer_norm_eps, which older files hold as well, is read by nothing in transformers
        norm_eps=fields.positive("norm_eps", 1e-5),
        activation=_ACTIVATIONS[activation],
        window=window,
        global_rope=global_rope,
        local_rope=local_rope,
        local_layers=_local_layers(fields, n_layers),
        attention_bias=fields.boolean("attention_bias", False),
        mlp_bias=fields.boolean("mlp_bias", False),
        norm_bias=fields.boolean("norm_bias", False),
    )


def content_sha256(folder: Path) -> str:
    """A digest over the content of every file that the converter reads; independent of the folder's name and place."""
    root = transformer_folder(folder)
    names = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    files = [folder / name for name in ("modules.json", "config_sentence_transformers.json", "artifact.metadata")]
    files += [root / name for name in (*names, "added_tokens.json", "tokenizer.model", "sentence_bert_config.json")]
    files += sorted(path for name in ("config.json", "model.safetensors") for path in folder.glob(f"[0-9]*_*/{name}"))
    files += _weight_files(root)
    digest = hashlib.sha256()
    for file in dict.fromkeys(files):
        if file.is_file():
            digest.update(f"{file.relative_to(folder).as_posix()}\0{_file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _file_sha256(file: Path) -> str:
    # in a hub snapshot, a large file is a link to a blob that is named by its sha256
    if file.is_symlink() and "snapshots" in file.parts:
        blob = file.resolve()
        if blob.parent.name == "blobs" and len(blob.name) == 64:
            return blob.name
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelNotFoundError(f"{file} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _local_layers(fields: Fields, n_layers: int) -> tuple[bool, ...]:
    kinds = fields.strings("layer_types")
    if kinds is None:
        every = fields.integer("global_attn_every_n_layers", 3)
        return tuple(layer % every != 0 for layer in range(n_layers))
    if len(kinds) != n_layers:
        raise fields.wrong("layer_types", f"one entry for each of the {n_layers} layers, found {len(kinds)}")
    for kind in kinds:
        if kind not in (FULL, SLIDING):
            raise UnsupportedError(f"{fields.path}: layer type {kind!r} is not known; known are {FULL} and {SLIDING}")
    return tuple(kind == SLIDING for kind in kinds)


def _weight_files(root: Path) -> list[Path]:
    """The safetensors files in the order transformers looks: the single one first, else those of the index."""
    if (root / _SINGLE).is_file():
        return [root / _SINGLE]
    if not (root / _INDEX).is_file():
        return []
    index = Fields.read(root / _INDEX).object("weight_map")
    shards = sorted({index.string(name, "") for name in index.values})
    for shard in shards:
        if not shard or Path(shard).name != shard:
            raise CheckpointError(f"{index.path}: {shard!r} is not the name of a file beside it")
        if not (root / shard).is_file():
            raise CheckpointError(f"{root} lacks {shard}, which {_INDEX} lists")
    return [root / shard for shard in shards]


def _stored_tensors(root: Path) -> dict[str, StoredTensor]:
    files = _weight_files(root)
    if not files:
        pickles = sorted(path.name for path in root.glob("pytorch_model*.bin"))
        advice = "load the model with transformers and save it again with save_pretrained, which writes safetensors"
        if pickles:
            raise UnsupportedError(f"{root} has only {pickles[0]}, a pickle, which can run code when read: {advice}")
        raise CheckpointError(f"{root} has no {_SINGLE}; if its weights are in another form, {advice}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name!r} is in {tensors[name].path.name} as well")
            tensors[name] = tensor
    return tensors


def _match_weights(
    config: ModelConfig, tensors: dict[str, StoredTensor]
) -> tuple[tuple[Weight, ...], dict[str, StoredTensor]]:
    """Pairs every tensor of the encoder with a stored one; the second value is what is left over."""
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    weights, used = [], set()
    for hf_name, part, layer, shape in _expected(config):
        name = prefix + hf_name
        stored = take_tensor(tensors, name, shape)
        used.add(name)
        weights.append(Weight(part, layer, name.endswith(".bias"), shape, stored))
    return tuple(weights), {name: stored for name, stored in tensors.items() if name not in used}


def _check_leftover(tensors: dict[str, StoredTensor], head: Head | None, architecture: str) -> None:
    """Refuses tensors that are neither the encoder's nor the head's, but for a masked-LM head that is left out."""
    used = {weight.stored.name for weight in head.weights} if head is not None else set()
    if head is not None and architecture == MASKED_LM:
        used.add("decoder.weight")  # a tied one may be stored all the same
    left_out = set()
    if head is None and architecture == MASKED_LM:
        left_out = {name for name in tensors if name.startswith(("head.dense.", "head.norm.", "decoder."))}
    if left_out:
        names = ", ".join(sorted(left_out))
        _log.info("left out the masked-language-model head, which embeddings do not use: %s", names)
    unknown = sorted(tensors.keys() - used - left_out)
    if unknown:
        name = unknown[0]
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        reason = " (config.json says that there are no biases)" if name.endswith(".bias") else ""
        raise UnsupportedError(f"{tensors[name].path}: tensor {name!r}{more} cannot be converted{reason}")


def _expected(config: ModelConfig) -> Iterator[tuple[str, Part, int | None, tuple[int, ...]]]:
    """Hugging Face's name, the part, its layer and its shape, for every tensor of the encoder."""
    hidden, ffn = config.hidden_size, config.ffn_size

    def norm(
        name: str, part: Part, layer: int | None = None
    ) -> Iterator[tuple[str, Part, int | None, tuple[int, ...]]]:
        yield f"{name}.weight", part, layer, (hidden,)
        if config.norm_bias:
            yield f"{name}.bias", part, layer, (hidden,)

    yield "embeddings.tok_embeddings.weight", "token_embd", None, (config.vocab_size, hidden)
    yield from norm("embeddings.norm", "token_embd_norm")
    for layer in range(config.n_layers):
        at = f"layers.{layer}"
        if layer > 0:  # layer 0 has the embedding norm right before it, and no norm of its own
            yield from norm(f"{at}.attn_norm", "attn_norm", layer)
        linears: tuple[tuple[str, Part, int, int, bool], ...] = (
            ("attn.Wqkv", "attn_qkv", 3 * hidden, hidden, config.attention_bias),
            ("attn.Wo", "attn_output", hidden, hidden, config.attention_bias),
            ("mlp.Wi", "ffn_in", 2 * ffn, hidden, config.mlp_bias),
            ("mlp.Wo", "ffn_out", hidden, ffn, config.mlp_bias),
        )
        for name, part, outputs, inputs, has_bias in linears:
            if part == "ffn_in":
                yield from norm(f"{at}.mlp_norm", "ffn_norm", layer)
            yield f"{at}.{name}.weight", part, layer, (outputs, inputs)
            if has_bias:
                yield f"{at}.{name}.bias", part, layer, (outputs,)
    yield from norm("final_norm", "output_norm")
