"""A GGUF file in another type, through llama.cpp's own quantiser, and what each tensor became."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from modernbert_llama import keys
from modernbert_llama.atomic_file import commit, hidden_file, need_space, target_path
from modernbert_llama.errors import ConversionError, InputError, ModelFileError
from modernbert_llama.gguf_header import GGUFHeader, TensorInfo, read_header
from modernbert_llama.quant_types import (
    QuantType,
    TensorType,
    base_type,
    block_size,
    check_quant_type,
    check_tensor_type,
    file_type_number,
    fit_rows,
    tensor_type_number,
    type_name,
)

__all__ = ["Mixture", "Quantization", "QuantizedTensor", "output_paths", "parse_tensor_types", "quantize", "render"]

Mixture = Literal["measured", "llama.cpp"]
MIXTURES: Final[tuple[Mixture, ...]] = get_args(Mixture)

# What the measured mixture puts into q6_K (docs/quantization.md): the embedding, and two more where their rows fit its
# blocks of 256. The others have more bits by their fallback already, or are too large for what they gain.
_MEASURED: Final[tuple[QuantType, ...]] = ("q5_K_M", "q4_K_M")
_RAISED: Final[TensorType] = "q6_K"
_FLOATS: Final = ("f32", "f16", "bf16")
_LAYER: Final = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor: ``shape`` in numpy's order, its types, and why ``after`` is not just the file's ("": it is)."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    nbytes: int
    reason: str


@dataclass(frozen=True)
class Quantization:
    """What :func:`quantize` wrote; ``tensors`` are in the order of the file, sizes in bytes."""

    source: Path
    path: Path
    type: QuantType
    tensors: tuple[QuantizedTensor, ...]
    source_size: int
    size: int

    @property
    def bits_per_weight(self) -> float:
        """Of all tensors together."""
        n = sum(_n_values(tensor.shape) for tensor in self.tensors)
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / max(n, 1)


def quantize(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    type: str,  # noqa: A002
    tensor_types: Mapping[str, str] | None = None,
    mixture: Mixture = "measured",
    allow_requantize: bool = False,
    n_threads: int | None = None,
) -> Quantization:
    """Writes ``source``, a GGUF file of either flavour in f32, f16 or bf16, anew with weights of ``type``.

    ``type`` is one of llama.cpp's (``quant_types.QUANT_TYPES``), in any case; which tensors get more bits is its
    own mixture of that name, but for q5_K_M and q4_K_M, where ``mixture`` "measured" costs less than "llama.cpp" for
    what it keeps (docs/quantization.md). ``tensor_types`` gives the matrices whose names a regular expression finds a
    type of their own, the first that fits: ``{r"token_embd": "q8_0"}``. Where the rows of a matrix are no multiple of a
    type's block it gets the next larger type whose block fits; the result says so. Norms, biases and ``cls`` heads stay
    as they are, as do all keys but ``general.file_type`` and ``general.quantization_version``. ``allow_requantize``
    takes a source whose matrices are quantised already, which loses more than quantising the original.

    ``output`` appears only when complete; on any failure it is as it was before. Raises ``InputError`` for an argument
    that cannot be used, ``ModelNotFoundError`` and ``ModelFileError`` for the source, ``ConversionError`` when the file
    cannot be written, ``OutOfMemoryError``.
    """
    from modernbert_llama import native
    from modernbert_llama.threads import default_threads

    chosen = check_quant_type(type)
    path = Path(source).expanduser()
    target = target_path(output)
    header = read_header(path)
    if target.exists() and path.samefile(target):
        raise InputError(f"output {target} is the source itself: give another name")
    _check_source(header, allow_requantize)
    if mixture not in MIXTURES:
        raise InputError(f"mixture {mixture!r} is not one of {', '.join(MIXTURES)}")
    asked = _asked(header, chosen, tensor_types or {})
    mixed = _measured(header, chosen) if mixture == "measured" else {}
    if n_threads is None:
        n_threads = default_threads()
    if n_threads < 1:
        raise InputError(f"n_threads is {n_threads}, expected at least 1")

    with hidden_file(target) as temporary:
        need_space(target, _expected_size(header, chosen))
        try:
            native.quantize(
                str(path),
                str(temporary),
                ftype=file_type_number(chosen),
                n_threads=n_threads,
                allow_requantize=allow_requantize,
                tensor_types=[
                    (f"^{re.escape(name)}$", tensor_type_number(kind)) for name, kind in (mixed | asked).items()
                ],
            )
            written = read_header(temporary)  # also: is all of it there?
        except ConversionError as error:
            raise ConversionError(f"cannot write {target}: {error}") from error
        size = temporary.stat().st_size
        commit(temporary, target)
    before = {info.name: info for info in header.tensors}
    tensors = tuple(_describe(before[info.name], info, chosen, asked, mixed) for info in written.tensors)
    return Quantization(path, target, chosen, tensors, header.size, size)


def output_paths(output: str, types: str) -> dict[QuantType, Path]:
    """The file of each type: ``types`` is names with commas between, ``{type}`` in ``output`` stands for the name."""
    names = [check_quant_type(name.strip()) for name in types.split(",")]
    if len(set(names)) != len(names):
        raise InputError(f"a type is given twice in {types!r}")
    if len(names) > 1 and "{type}" not in output:
        raise InputError(f"{len(names)} types need as many files: put {{type}} into the name of the output")
    return {name: Path(output.replace("{type}", name)) for name in names}


def parse_tensor_types(items: Sequence[str]) -> dict[str, str]:
    """``REGEX=TYPE`` items as :func:`quantize` takes them."""
    result = {}
    for item in items:
        pattern, equals, kind = item.rpartition("=")
        if not equals or not pattern:
            raise InputError(f"tensor type {item!r} is not of the form REGEX=TYPE")
        result[pattern] = kind
    return result


def _check_source(header: GGUFHeader, allow_requantize: bool) -> None:
    arch = header.metadata.get("general.architecture")
    if arch not in keys.ARCHS:
        raise ModelFileError(
            f"{header.path}: the architecture is {arch!r}, expected {' or '.join(map(repr, keys.ARCHS))}"
        )
    if header.metadata.get("general.alignment", 32) != 32:
        raise ModelFileError(
            f"{header.path}: general.alignment is {header.metadata['general.alignment']}, and llama.cpp's quantiser "
            "writes 32 whatever the key says: convert the checkpoint anew"
        )
    quantised = [info for info in header.tensors if info.type not in _FLOATS]
    if quantised and not allow_requantize:
        raise InputError(
            f"{header.path} is quantised already (tensor {quantised[0].name!r} is {type_name(quantised[0].type)}): "
            "quantise an f32, f16 or bf16 file, or allow it with allow_requantize (--allow-requantize), at a loss"
        )


def _asked(header: GGUFHeader, chosen: QuantType, tensor_types: Mapping[str, str]) -> dict[str, TensorType]:
    """Tensors that do not get what llama.cpp's mixture says, as their rows allow."""
    patterns = [(_compile(pattern), check_tensor_type(kind)) for pattern, kind in tensor_types.items()]
    if patterns and chosen in _FLOATS:
        raise InputError(f"tensor_types cannot be given with {chosen}, which all matrices get")
    asked: dict[str, TensorType] = {}
    used: set[str] = set()
    for info in header.tensors:
        if not _is_matrix(info):
            continue
        found = next(((pattern, kind) for pattern, kind in patterns if pattern.search(info.name)), None)
        if found is not None:
            used.add(found[0].pattern)
            asked[info.name] = found[1]
        elif info.name.startswith("cls") and chosen not in _FLOATS and info.type in _FLOATS:
            asked[info.name] = check_tensor_type(info.type)
    unused = [pattern.pattern for pattern, _ in patterns if pattern.pattern not in used]
    if unused:
        raise InputError(f"tensor type {unused[0]!r} fits no matrix of {header.path}")
    return {name: fit_rows(kind, _row(header, name)) for name, kind in asked.items()}


def _measured(header: GGUFHeader, chosen: QuantType) -> dict[str, TensorType]:
    """The types of all matrices in the measured mixture; empty where llama.cpp's own is taken."""
    if chosen not in _MEASURED:
        return {}
    types: dict[str, TensorType] = {}
    for info in filter(_is_matrix, header.tensors):
        n = info.shape[-1]
        narrow = n % block_size(_RAISED) == 0 and any(part in info.name for part in ("attn_output", "ffn_down"))
        raised = narrow or info.name == "token_embd.weight"
        types[info.name] = fit_rows(_RAISED if raised else base_type(chosen), n)
    return types


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"tensor type {pattern!r}: no regular expression ({error})") from error


def _row(header: GGUFHeader, name: str) -> int:
    return next(info.shape[-1] for info in header.tensors if info.name == name)


def _is_matrix(info: TensorInfo) -> bool:
    """What the quantiser touches: matrices of more than one row, but for norms."""
    return (
        info.name.endswith("weight") and "_norm.weight" not in info.name and any(size > 1 for size in info.shape[:-1])
    )


def _expected_size(header: GGUFHeader, chosen: QuantType) -> int:
    """About what the file needs: mixtures and rows that do not fit change it by some percent."""
    block, size = (int(n) for n in GGML_QUANT_SIZES[GGMLQuantizationType[base_type(chosen).upper()]])
    data = sum(info.nbytes for info in header.tensors)
    matrices = [info for info in header.tensors if _is_matrix(info)]
    smaller = sum(_n_values(info.shape) * size // block for info in matrices)
    return header.size - data + (data - sum(info.nbytes for info in matrices)) + smaller


def _describe(
    before: TensorInfo,
    after: TensorInfo,
    chosen: QuantType,
    asked: Mapping[str, TensorType],
    mixed: Mapping[str, TensorType],
) -> QuantizedTensor:
    was, became = type_name(before.type), type_name(after.type)
    reason = "no matrix"
    if _is_matrix(after):
        whose = "the measured" if after.name in mixed else "llama.cpp's"
        reason = _reason(after, became, chosen, asked.get(after.name), whose)
    return QuantizedTensor(after.name, after.shape, was, became, after.nbytes, reason)


def _reason(info: TensorInfo, became: str, chosen: QuantType, asked: TensorType | None, whose: str) -> str:
    base, n = base_type(chosen), info.shape[-1]
    if info.name.startswith("cls") and became == asked:
        return "a head keeps its type"
    if asked is not None:
        return "asked for" if became == asked else f"this llama.cpp does not give {asked} to rows of {n} values"
    if became == base or base in _FLOATS:
        return ""
    for block in (32, block_size(base)):
        if n % block:
            return f"rows of {n} values are no multiple of {block}"
    return f"{whose} mixture of {chosen}"


def _n_values(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def render(result: Quantization) -> str:
    """What became of the matrices as a table, layers of the same fate in one line, then the sizes."""
    groups: dict[tuple[str, tuple[int, ...], str, str, str], list[int | None]] = {}
    for tensor in result.tensors:
        if len(tensor.shape) < 2:
            continue
        match = _LAYER.match(tensor.name)
        name = _LAYER.sub("blk.*.", tensor.name)
        fate = (name, tensor.shape, tensor.before, tensor.after, tensor.reason)
        groups.setdefault(fate, []).append(int(match[1]) if match else None)
    rows = [("tensor", "layers", "shape", "was", "is", "why")]
    for (name, shape, was, became, reason), layers in groups.items():
        rows.append((name, _ranges(layers), " x ".join(map(str, shape)), was, became, reason))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sizes = f"{result.size / 1e6:.1f} MB of {result.source_size / 1e6:.1f} MB"
    lines += ["", f"{result.path}: {result.type}, {sizes}, {result.bits_per_weight:.2f} bits a weight"]
    return "\n".join(lines)


def _ranges(layers: list[int | None]) -> str:
    """``0-3, 7``; empty outside the layers."""
    numbers = sorted(layer for layer in layers if layer is not None)
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
