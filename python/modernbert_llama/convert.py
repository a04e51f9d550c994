"""Checkpoint to GGUF: a block of rows in memory at a time, written beside the target and renamed when whole."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal, NoReturn, get_args

import numpy as np
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from numpy.typing import NDArray
from tqdm import tqdm

from modernbert_llama import keys
from modernbert_llama.atomic_file import commit, hidden_file, need_space, target_path
from modernbert_llama.checkpoint import Checkpoint, ModelConfig, Weight, content_sha256, read_checkpoint
from modernbert_llama.errors import CheckpointError, InputError
from modernbert_llama.ggml_vocabulary import TokenType
from modernbert_llama.heads import Head
from modernbert_llama.hub import find_source
from modernbert_llama.roles import encode_roles
from modernbert_llama.rope import RopeScaling, yarn_magnitude
from modernbert_llama.safetensors_reader import StoredTensor
from modernbert_llama.steps import encode_steps

__all__ = ["CONVERTER_VERSION", "OUTTYPES", "OutType", "convert", "write_gguf"]

_log = logging.getLogger(__name__)

OutType = Literal["f32", "f16", "bf16", "q8_0"]
OUTTYPES: Final[tuple[OutType, ...]] = get_args(OutType)
_BLOCK: Final = 1 << 20  # values read and encoded at a time: some ten bytes of memory each
CONVERTER_VERSION: Final = 3  # raise it when the same checkpoint gives another file: cached files are keyed by it

_Q = GGMLQuantizationType
_TYPES = {
    "f32": (_Q.F32, LlamaFileType.ALL_F32),
    "f16": (_Q.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (_Q.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (_Q.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
# the largest magnitude whose rounding is still finite; q8_0 stores a block's largest value / 127 as float16
_LIMITS = {_Q.F32: np.inf, _Q.F16: 65519.0, _Q.BF16: 3.3895e38, _Q.Q8_0: 65519.0 * 127}


@dataclass(frozen=True)
class _Output:
    """One tensor of the GGUF: ``rows`` of ``stored`` (None: all), stored as ``type``."""

    name: str
    stored: StoredTensor
    rows: tuple[int, int] | None
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def nbytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.type]
        n: int = math.prod(self.shape) // block * size
        return n


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    outtype: OutType = "f32",
    arch: keys.Arch = "modern-bert",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool | None = None,
) -> Path:
    """Converts a Hugging Face ModernBERT checkpoint to a GGUF file, and returns the file's path.

    ``source`` is a local folder or a hub id, with ``revision`` (branch, tag, commit) and ``cache_dir`` (the cache of
    huggingface_hub) for the latter. ``outtype`` is the type of the matrices; norms and biases are always float32.
    ``arch`` is ``"modern-bert"`` (stock llama.cpp reads it too) or ``"modernbert"``. ``show_progress`` None shows a
    bar on a terminal.

    ``output`` appears only when complete; on any failure it is as it was before. Raises ``ModelNotFoundError``,
    ``CheckpointError`` (``UnsupportedError`` for a part that is not known), ``InputError``, or ``ConversionError``
    when the file cannot be written.
    """
    _check_choice("outtype", outtype, OUTTYPES)
    _check_choice("arch", arch, keys.ARCHS)
    target = target_path(output)
    found = find_source(source, revision=revision, cache_dir=cache_dir)
    checkpoint = read_checkpoint(found.folder, name=found.name)
    write_gguf(checkpoint, target, outtype=outtype, arch=arch, show_progress=show_progress)
    return target


def write_gguf(
    checkpoint: Checkpoint,
    target: Path,
    *,
    outtype: OutType,
    arch: keys.Arch = "modern-bert",
    show_progress: bool | None = None,
    keep_existing: bool = False,
) -> None:
    """Writes a checkpoint that is already read; atomic, with the errors of ``convert``.

    ``keep_existing`` leaves a target that is there, or that another process makes while this one waits for its turn.
    """
    outputs = [item for weight in checkpoint.weights for item in _outputs(weight, outtype, arch, checkpoint.config)]
    outputs += _head_outputs(checkpoint.head, outtype)
    total = sum(item.nbytes for item in outputs)
    digest = content_sha256(checkpoint.folder)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    with hidden_file(target) as path:
        if keep_existing and target.exists():
            return
        need_space(target, total)
        with _writing(path, arch) as writer:
            _add_metadata(writer, checkpoint, outtype, arch)
            writer.add_string(keys.SOURCE_SHA256, digest)
            for item in outputs:
                writer.add_tensor_info(item.name, item.shape, np.dtype(np.float32), item.nbytes, raw_dtype=item.type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            with tqdm(total=total, unit="B", unit_scale=True, desc=target.name, disable=not show) as bar:
                for item in outputs:
                    writer.write_tensor_data(_Blocks(item, bar))
        commit(path, target)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}")


@contextmanager
def _writing(path: Path, arch: str) -> Iterator[GGUFWriter]:
    writer = GGUFWriter(path, arch)
    try:
        yield writer
    except BaseException:
        with suppress(OSError):  # flushing to a full disk fails a second time
            writer.close()
        raise
    writer.close()


def _outputs(weight: Weight, outtype: OutType, arch: keys.Arch, config: ModelConfig) -> Iterator[_Output]:
    """The GGUF tensors of one weight: the fused feed-forward input is two tensors in the ``modernbert`` flavour."""
    kind = "bias" if weight.is_bias else "weight"
    prefix = "" if weight.layer is None else f"blk.{weight.layer}."
    pieces: list[tuple[str, tuple[int, int] | None]] = [(weight.part, None)]
    if weight.part == "ffn_in":
        ffn = config.ffn_size
        pieces = [("ffn_up", None)] if arch == "modern-bert" else [("ffn_gate", (0, ffn)), ("ffn_up", (ffn, 2 * ffn))]
    elif weight.part == "ffn_out":
        pieces = [("ffn_down", None)]
    for name, rows in pieces:
        shape = weight.shape if rows is None else (rows[1] - rows[0], *weight.shape[1:])
        stored = _matrix_type(f"{prefix}{name}", shape, outtype) if len(shape) == 2 else _Q.F32
        yield _Output(f"{prefix}{name}.{kind}", weight.stored, rows, shape, stored)


def _head_outputs(head: Head | None, outtype: OutType) -> list[_Output]:
    """The tensors of a head that llama.cpp computes, and a decoder; all else travels in keys, see ``_add_head``."""
    if head is None:
        return []
    outputs = []
    for weight in head.weights:
        if weight.name == keys.DECODER:
            stored = _matrix_type(weight.name, weight.stored.shape, outtype)
            outputs.append(_Output(weight.name, weight.stored, None, weight.stored.shape, stored))
        elif head.in_stock and weight.name in keys.HEAD_TENSORS:
            outputs.append(_Output(weight.name, weight.stored, None, weight.stored.shape, _Q.F32))
    return outputs


def _matrix_type(name: str, shape: tuple[int, ...], outtype: OutType) -> GGMLQuantizationType:
    stored = _TYPES[outtype][0]
    if stored is _Q.Q8_0 and shape[1] % GGML_QUANT_SIZES[stored][0]:
        _log.warning("%s stays f16: q8_0 needs rows of a multiple of 32, not %d", name, shape[1])
        return _Q.F16
    return stored


class _Blocks:
    """The values of one tensor, read and encoded while they are written: to GGUFWriter, an array of that many bytes."""

    def __init__(self, item: _Output, bar: tqdm[NoReturn]) -> None:
        self.nbytes = item.nbytes
        self._item, self._bar = item, bar

    def tofile(self, file: IO[bytes]) -> None:
        start, stop = self._item.rows or (0, self._item.shape[0])
        step = max(1, _BLOCK // math.prod(self._item.shape[1:]))
        for first in range(start, stop, step):
            block = _encode(self._item, (first, min(first + step, stop)))
            file.write(block.data)
            self._bar.update(block.nbytes)


def _encode(item: _Output, rows: tuple[int, int]) -> NDArray[np.generic]:
    """Rows of the tensor's values, as they lie in the file."""
    values = item.stored.read(rows)
    if item.type is not _Q.F32:
        peak = max(float(values.max()), -float(values.min()))
        if peak > _LIMITS[item.type]:
            raise CheckpointError(
                f"{item.stored.path}: tensor {item.stored.name!r} holds {peak:g}, "
                f"too large for {item.type.name.lower()}: choose f32 or bf16"
            )
    encoded: NDArray[np.generic] = quantize(values, item.type)
    return encoded


def _add_metadata(writer: GGUFWriter, checkpoint: Checkpoint, outtype: OutType, arch: keys.Arch) -> None:
    config, pipeline = checkpoint.config, checkpoint.pipeline
    writer.add_type("model")
    writer.add_name(checkpoint.name)
    writer.add_file_type(_TYPES[outtype][1])
    if outtype == "q8_0":
        writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_causal_attention(False)
    writer.add_string(f"{arch}.hidden_activation", config.activation)
    # other readers must not pool in another way than the model: no pooling where llama.cpp has not the model's
    pooling_type = keys.POOLING_TYPES.get(pipeline.pooling, keys.POOLING_TYPES["none"])
    if checkpoint.task == "sequence-classification" and _head_outputs(checkpoint.head, outtype):
        writer.add_uint32(keys.CLASSIFIER_POOLING.format(arch=arch), pooling_type)
        pooling_type = keys.POOLING_RANK
    writer.add_uint32(f"{arch}.pooling_type", pooling_type)
    period = _period(config.local_layers)
    if arch == "modern-bert":
        # 0 where no layer is local: stock llama.cpp aborts on a window that none of its layers uses
        writer.add_uint32(f"{arch}.attention.sliding_window", config.window if any(config.local_layers) else 0)
        writer.add_float32(f"{arch}.rope.freq_base", config.global_rope.theta)
        writer.add_float32(f"{arch}.rope.freq_base_swa", config.local_rope.theta)
        period_key = f"{arch}.attention.sliding_window_pattern"
    else:
        writer.add_uint32(f"{arch}.attention.local_attn_window", config.window)
        writer.add_float32(f"{arch}.rope.freq_base_global", config.global_rope.theta)
        writer.add_float32(f"{arch}.rope.freq_base_local", config.local_rope.theta)
        writer.add_bool(f"{arch}.normalize_embeddings", pipeline.normalize)
        period_key = f"{arch}.attention.global_attn_every_n_layers"
    if period is not None:
        writer.add_uint32(period_key, period)
    else:
        writer.add_array(f"{arch}.attention.sliding_window_pattern", list(config.local_layers))
    if arch == "modern-bert" or config.global_rope.scaling is not None:
        _add_rope_scaling(writer, f"{arch}.rope.scaling", config.global_rope.scaling, "")
    if any(config.local_layers) and config.local_rope.scaling is not None:
        _add_rope_scaling(writer, f"{arch}.rope.scaling", config.local_rope.scaling, "_swa")
        _log.warning("stock llama.cpp does not scale the RoPE of the local layers: it will differ with this file")
    _add_pipeline(writer, checkpoint)
    _add_head(writer, checkpoint, outtype, arch)
    _add_tokenizer(writer, checkpoint, arch)


def _add_rope_scaling(writer: GGUFWriter, prefix: str, scaling: RopeScaling | None, suffix: str) -> None:
    """llama.cpp's keys; those of the local layers (``_swa``) are of a patch."""
    writer.add_string(f"{prefix}.type{suffix}", "none" if scaling is None else scaling.kind)
    if scaling is None:
        return
    writer.add_float32(f"{prefix}.factor{suffix}", scaling.factor)
    if scaling.kind == "yarn":
        writer.add_uint32(f"{prefix}.original_context_length{suffix}", scaling.original_context)
        # llama.cpp multiplies the magnitude of the paper in by itself
        writer.add_float32(f"{prefix}.attn_factor{suffix}", scaling.attention_factor / yarn_magnitude(scaling.factor))
        writer.add_float32(f"{prefix}.yarn_beta_fast{suffix}", scaling.beta_fast)
        writer.add_float32(f"{prefix}.yarn_beta_slow{suffix}", scaling.beta_slow)


def _period(local_layers: tuple[bool, ...]) -> int | None:
    """N where exactly every Nth layer from 0 is global; None for any other pattern."""
    for period in range(1, len(local_layers) + 1):
        if all(local == (layer % period != 0) for layer, local in enumerate(local_layers)):
            return period
    return None


def _add_pipeline(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    pipeline = checkpoint.pipeline
    if pipeline.pooling not in keys.POOLING_TYPES:
        writer.add_string(keys.ST_POOLING, pipeline.pooling)
        _log.warning("stock llama.cpp has no pooling %r: it will give the vectors of the tokens", pipeline.pooling)
    if not pipeline.include_prompt:
        writer.add_bool(keys.ST_INCLUDE_PROMPT, False)
    if pipeline.steps:
        # not as tensors: stock llama.cpp refuses a file that has one it does not know
        text, arrays = encode_steps(pipeline.steps)
        writer.add_string(keys.ST_STEPS, text)
        for name, values in arrays.items():
            _add_floats(writer, keys.ST_STEP_ARRAY + name, values)
        names = ", ".join(type(step).__name__ for step in pipeline.steps)
        _log.warning("stock llama.cpp does not know these modules behind the pooling, and leaves them out: %s", names)
    writer.add_bool(keys.ST_NORMALIZE, pipeline.normalize)
    writer.add_uint32(keys.ST_MAX_SEQ_LENGTH, pipeline.max_seq_length)
    if pipeline.prompts:
        writer.add_string(keys.ST_PROMPTS, json.dumps(pipeline.prompts, ensure_ascii=False))
    if pipeline.default_prompt_name is not None:
        writer.add_string(keys.ST_DEFAULT_PROMPT_NAME, pipeline.default_prompt_name)
    if pipeline.similarity_fn_name is not None:
        writer.add_string(keys.ST_SIMILARITY, pipeline.similarity_fn_name)
    if pipeline.splade is not None:
        writer.add_string(keys.ST_SPLADE_POOLING, pipeline.splade.pooling)
        writer.add_string(keys.ST_SPLADE_ACTIVATION, pipeline.splade.activation)
        if pipeline.splade.max_active_dims is not None:
            writer.add_uint32(keys.ST_MAX_ACTIVE_DIMS, pipeline.splade.max_active_dims)
    if pipeline.truncate_dim is not None:
        writer.add_uint32(keys.ST_TRUNCATE_DIM, pipeline.truncate_dim)
    if pipeline.roles is not None:
        writer.add_string(keys.MULTI_VECTOR, encode_roles(pipeline.roles))
    if pipeline.matryoshka_dims:
        dims = list(pipeline.matryoshka_dims)
        writer.add_key_value(keys.ST_MATRYOSHKA_DIMS, dims, GGUFValueType.ARRAY, GGUFValueType.UINT32)


def _add_head(writer: GGUFWriter, checkpoint: Checkpoint, outtype: OutType, arch: keys.Arch) -> None:
    if checkpoint.task != "embedding":
        writer.add_string(keys.TASK, checkpoint.task)
    head = checkpoint.head
    if head is None:
        return
    if checkpoint.pipeline.score_activation is not None:
        writer.add_string(keys.SCORE_ACTIVATION, checkpoint.pipeline.score_activation)
    if head.labels:
        writer.add_array(keys.CLASSIFIER_LABELS.format(arch=arch), list(head.labels))
    if head.problem_type is not None:
        writer.add_string(keys.PROBLEM_TYPE, head.problem_type)
    if head.activation != "gelu":
        writer.add_string(keys.HEAD_ACTIVATION, head.activation)
    tensors = {item.name for item in _head_outputs(head, outtype)}
    for weight in head.weights:
        if weight.name not in tensors:
            # a tensor that stock llama.cpp does not know would make it refuse the file
            _add_floats(writer, keys.HEAD_ARRAY + weight.name, weight.stored.read())
    if keys.DECODER in tensors:
        _log.warning("stock llama.cpp refuses this file: it knows no decoder that is not the token embedding")
    if checkpoint.task == "sequence-classification" and not tensors:
        _log.warning("stock llama.cpp cannot compute this head: it will give embeddings, not scores, with this file")


def _add_floats(writer: GGUFWriter, key: str, values: NDArray[np.float32]) -> None:
    writer.add_key_value(key, values.ravel().tolist(), GGUFValueType.ARRAY, GGUFValueType.FLOAT32)


def _add_tokenizer(writer: GGUFWriter, checkpoint: Checkpoint, arch: keys.Arch) -> None:
    vocabulary = checkpoint.vocabulary
    pre = vocabulary.pre
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.why_none is not None:
        _log.warning("stock llama.cpp will take this file with token ids only, not with texts: %s", vocabulary.why_none)
    else:
        # the same expression under the name that the first port wrote
        writer.add_tokenizer_pre("gpt-2" if pre == "modern-bert" and arch == "modernbert" else pre)
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_types(vocabulary.types)
        if vocabulary.model == "t5" and TokenType.BYTE in vocabulary.types:
            _log.info("stock llama.cpp gives the unknown token, not bytes, for a character without a token of its own")
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.charsmap:
        writer.add_precompiled_charsmap(vocabulary.charsmap)
    for name, flag in vocabulary.flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", flag)
    for name, number in (("bos", vocabulary.bos), ("eos", vocabulary.eos)):
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    spelled = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # llama.cpp's spelling
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{spelled.get(name, name)}_token_id", number)
    for side, numbers in vocabulary.strip.items():
        if numbers:
            writer.add_key_value(keys.STRIP_TOKENS[side], list(numbers), GGUFValueType.ARRAY, GGUFValueType.UINT32)
    writer.add_add_bos_token(vocabulary.bos is not None)
    writer.add_add_eos_token(vocabulary.eos is not None)
    writer.add_add_sep_token(vocabulary.add_sep)
    writer.add_string(keys.TOKENIZER_JSON, checkpoint.tokenizer.json)
    if checkpoint.tokenizer.split_special_tokens:
        writer.add_bool(keys.SPLIT_SPECIAL_TOKENS, True)
