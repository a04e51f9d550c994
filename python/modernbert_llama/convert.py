"""Checkpoint to GGUF: one tensor in memory at a time, written beside the target and renamed when whole."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from numpy.typing import NDArray
from tqdm import tqdm

from modernbert_llama import keys
from modernbert_llama.checkpoint import Checkpoint, ModelConfig, Weight, content_sha256, read_checkpoint
from modernbert_llama.errors import CheckpointError, ConversionError, InputError, ModernBertLlamaError
from modernbert_llama.hub import find_source

__all__ = ["CONVERTER_VERSION", "OUTTYPES", "OutType", "convert", "write_gguf"]

_log = logging.getLogger(__name__)

OutType = Literal["f32", "f16", "bf16", "q8_0"]
OUTTYPES: Final[tuple[OutType, ...]] = get_args(OutType)
CONVERTER_VERSION: Final = 1  # raise it when the same checkpoint gives another file: cached files are keyed by it

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
    """One tensor of the GGUF: ``rows`` of ``weight`` (None: all), stored as ``type``."""

    name: str
    weight: Weight
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
    target = Path(output).expanduser()
    if target.is_dir():
        raise InputError(f"output {target} is a folder; give the name of the file to write")
    if not target.parent.is_dir():
        raise InputError(f"output folder {target.parent} does not exist")
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
) -> None:
    """Writes a checkpoint that is already read; atomic, with the errors of ``convert``."""
    outputs = [item for weight in checkpoint.weights for item in _outputs(weight, outtype, arch, checkpoint.config)]
    total = sum(item.nbytes for item in outputs)
    digest = content_sha256(checkpoint.folder)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    with _replacing(target, total) as temporary, _writing(temporary, arch) as writer:
        _add_metadata(writer, checkpoint, outtype, arch)
        writer.add_string(keys.SOURCE_SHA256, digest)
        for item in outputs:
            writer.add_tensor_info(item.name, item.shape, np.dtype(np.float32), item.nbytes, raw_dtype=item.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with tqdm(total=total, unit="B", unit_scale=True, desc=target.name, disable=not show) as bar:
            for item in outputs:
                writer.write_tensor_data(_encode(item))
                bar.update(item.nbytes)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}")


@contextmanager
def _replacing(target: Path, needed: int) -> Iterator[Path]:
    """A temporary path beside ``target`` that becomes it on success and is removed on any failure."""
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise ConversionError(
                f"cannot write {target}: it needs {needed / 1e6:.0f} MB, and the disk has {free / 1e6:.0f} MB free"
            )
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except ModernBertLlamaError:
        raise
    except OSError as error:  # numpy's short write has no errno
        reason = error.strerror or f"the disk is full or a file-size limit is reached ({error})"
        raise ConversionError(f"cannot write {target}: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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
        stored = _TYPES[outtype][0] if len(shape) == 2 else _Q.F32
        if stored is _Q.Q8_0 and shape[1] % GGML_QUANT_SIZES[stored][0]:
            stored = _Q.F16
            _log.warning("%s%s stays f16: q8_0 needs rows of a multiple of 32, not %d", prefix, name, shape[1])
        yield _Output(f"{prefix}{name}.{kind}", weight, rows, shape, stored)


def _encode(item: _Output) -> NDArray[np.generic]:
    """The tensor's values, as they lie in the file."""
    values = item.weight.stored.read(item.rows)
    if item.type is not _Q.F32:
        peak = max(float(values.max()), -float(values.min()))
        if peak > _LIMITS[item.type]:
            raise CheckpointError(
                f"{item.weight.stored.path}: tensor {item.weight.stored.name!r} holds {peak:g}, "
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
    writer.add_uint32(f"{arch}.pooling_type", keys.POOLING_TYPES[pipeline.pooling])
    period = _period(config.local_layers)
    if arch == "modern-bert":
        # 0 where no layer is local: stock llama.cpp aborts on a window that none of its layers uses
        writer.add_uint32(f"{arch}.attention.sliding_window", config.window if any(config.local_layers) else 0)
        writer.add_float32(f"{arch}.rope.freq_base", config.global_theta)
        writer.add_float32(f"{arch}.rope.freq_base_swa", config.local_theta)
        writer.add_string(f"{arch}.rope.scaling.type", "none")
        period_key = f"{arch}.attention.sliding_window_pattern"
    else:
        writer.add_uint32(f"{arch}.attention.local_attn_window", config.window)
        writer.add_float32(f"{arch}.rope.freq_base_global", config.global_theta)
        writer.add_float32(f"{arch}.rope.freq_base_local", config.local_theta)
        writer.add_bool(f"{arch}.normalize_embeddings", pipeline.normalize)
        period_key = f"{arch}.attention.global_attn_every_n_layers"
    if period is not None:
        writer.add_uint32(period_key, period)
    else:
        writer.add_array(f"{arch}.attention.sliding_window_pattern", list(config.local_layers))
    _add_pipeline(writer, checkpoint)
    _add_tokenizer(writer, checkpoint, "modern-bert" if arch == "modern-bert" else "gpt-2")


def _period(local_layers: tuple[bool, ...]) -> int | None:
    """N where exactly every Nth layer from 0 is global; None for any other pattern."""
    for period in range(1, len(local_layers) + 1):
        if all(local == (layer % period != 0) for layer, local in enumerate(local_layers)):
            return period
    return None


def _add_pipeline(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    pipeline = checkpoint.pipeline
    writer.add_bool(keys.ST_NORMALIZE, pipeline.normalize)
    writer.add_uint32(keys.ST_MAX_SEQ_LENGTH, pipeline.max_seq_length)
    if pipeline.prompts:
        writer.add_string(keys.ST_PROMPTS, json.dumps(pipeline.prompts, ensure_ascii=False))
    if pipeline.default_prompt_name is not None:
        writer.add_string(keys.ST_DEFAULT_PROMPT_NAME, pipeline.default_prompt_name)
    if pipeline.similarity_fn_name is not None:
        writer.add_string(keys.ST_SIMILARITY, pipeline.similarity_fn_name)
    if pipeline.truncate_dim is not None:
        writer.add_uint32(keys.ST_TRUNCATE_DIM, pipeline.truncate_dim)
    if pipeline.matryoshka_dims:
        dims = list(pipeline.matryoshka_dims)
        writer.add_key_value(keys.ST_MATRYOSHKA_DIMS, dims, GGUFValueType.ARRAY, GGUFValueType.UINT32)


def _add_tokenizer(writer: GGUFWriter, checkpoint: Checkpoint, pre: str) -> None:
    vocabulary = checkpoint.vocabulary
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, number in (("bos", vocabulary.bos), ("eos", vocabulary.eos)):
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    spelled = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # llama.cpp's spelling
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{spelled.get(name, name)}_token_id", number)
    writer.add_add_bos_token(vocabulary.bos is not None)
    writer.add_add_eos_token(vocabulary.eos is not None)
    writer.add_add_sep_token(vocabulary.eos is not None)
    writer.add_string(keys.TOKENIZER_JSON, checkpoint.tokenizer.json)
