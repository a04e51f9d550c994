"""The types of weights by llama.cpp's names: of files (``q4_K_M``), of tensors (``q4_K``), and what fits which rows."""

from __future__ import annotations

from typing import Final, Literal, get_args

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from modernbert_llama.errors import InputError

__all__ = [
    "QUANT_TYPES",
    "TENSOR_TYPES",
    "QuantType",
    "TensorType",
    "base_type",
    "block_size",
    "check_quant_type",
    "check_tensor_type",
    "file_type_number",
    "fit_rows",
    "tensor_type_number",
    "type_name",
]

QuantType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_K", "q5_K_M", "q5_K_S", "q5_1", "q5_0", "q4_K_M", "q4_K_S", "q4_1", "q4_0",
    "iq4_nl", "iq4_xs", "q3_K_L", "q3_K_M", "q3_K_S", "iq3_m", "iq3_s", "q2_K",
]  # fmt: skip
QUANT_TYPES: Final[tuple[QuantType, ...]] = get_args(QuantType)

TensorType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_K", "q5_K", "q5_1", "q5_0", "q4_K", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_K",
    "iq3_s", "q2_K",
]  # fmt: skip
TENSOR_TYPES: Final[tuple[TensorType, ...]] = get_args(TensorType)

_NEED_IMATRIX: Final = (
    "iq3_xs", "iq3_xxs", "q2_K_S", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
)  # fmt: skip
_TRAINED: Final = ("tq1_0", "tq2_0", "q1_0", "q2_0", "nvfp4", "mxfp4", "mxfp4_moe")

# what llama.cpp takes where a row is not a multiple of 256: the next larger type in blocks of 32
_FALLBACK: Final[dict[TensorType, TensorType]] = {
    "q6_K": "q8_0",
    "q5_K": "q5_1",
    "q4_K": "q5_0",
    "q3_K": "q4_0",
    "q2_K": "q4_0",
    "iq4_xs": "iq4_nl",
    "iq3_s": "iq4_nl",
}


def check_quant_type(name: str) -> QuantType:
    """The file type of that name, whatever its case. Raises ``InputError`` that says what to do instead."""
    for known in QUANT_TYPES:
        if name.lower() == known.lower():
            return known
    if name.lower() in map(str.lower, _NEED_IMATRIX):
        raise InputError(
            f"type {name} needs an importance matrix, without which its vectors are useless: choose iq3_s, q3_K_S or "
            "q2_K, or give llama.cpp's own llama-quantize a matrix with --imatrix"
        )
    if name.lower() in _TRAINED:
        raise InputError(f"type {name} is for models that were trained with such weights: choose one of {_list()}")
    raise InputError(f"type {name!r} is not one of {_list()}")


def check_tensor_type(name: str) -> TensorType:
    """The tensor type of that name, whatever its case. Raises ``InputError``."""
    for known in TENSOR_TYPES:
        if name.lower() == known.lower():
            return known
    raise InputError(f"tensor type {name!r} is not one of {', '.join(TENSOR_TYPES)}")


def _list() -> str:
    return ", ".join(QUANT_TYPES)


def file_type_number(name: QuantType) -> int:
    """llama.cpp's enum llama_ftype, the value of ``general.file_type``."""
    prefix = "ALL" if name == "f32" else "MOSTLY"
    return int(LlamaFileType[f"{prefix}_{name.upper()}"])


def tensor_type_number(name: TensorType) -> int:
    """llama.cpp's enum ggml_type."""
    return int(GGMLQuantizationType[name.upper()])


def type_name(name: str) -> str:
    """llama.cpp's spelling of a type in any case: ``q4_K_M``, not ``q4_k_m``; ``iq3_m``, not ``iq3_M``."""
    spelled = {known.lower(): known for known in (*QUANT_TYPES, *TENSOR_TYPES)}
    return spelled.get(name.lower(), name.lower())


def base_type(name: QuantType) -> TensorType:
    """The type of most matrices of a file of type ``name``."""
    if name in ("iq3_m", "iq3_s"):
        return "iq3_s"
    return check_tensor_type(name.removesuffix("_S").removesuffix("_M").removesuffix("_L"))


def block_size(name: TensorType) -> int:
    """Values that share a scale: a row must be a multiple of it."""
    return int(GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]][0])


def fit_rows(name: TensorType, n: int) -> TensorType:
    """``name`` if rows of ``n`` values can have it, else the type that llama.cpp takes in its place."""
    if n % block_size(name) == 0:
        return name
    smaller = _FALLBACK.get(name, "f16")
    return smaller if n % block_size(smaller) == 0 else "f16"
