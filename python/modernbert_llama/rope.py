"""The RoPE of a ModernBERT config.json, for full and for sliding-window attention, as transformers 5 resolves it.

Older files have ``global_rope_theta``, ``local_rope_theta`` and one ``rope_scaling``, which goes into both; newer ones
``rope_parameters`` with an object for each kind of attention.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Final, Literal

from modernbert_llama.errors import UnsupportedError
from modernbert_llama.jsonfile import Fields

__all__ = ["FULL", "SLIDING", "Rope", "RopeScaling", "read_rope", "yarn_magnitude"]

_log = logging.getLogger(__name__)

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"

_COMMON: Final = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_KEYS: Final = {
    "default": _COMMON,
    "linear": _COMMON | {"factor"},
    "dynamic": _COMMON | {"factor", "original_max_position_embeddings"},
    "yarn": _COMMON
    | {
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "factor",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "truncate",
    },
}


@dataclass(frozen=True)
class RopeScaling:
    """Frequencies divided by ``factor``: all of them ("linear"), or those of the slow pairs with a ramp ("yarn").

    YaRN (https://arxiv.org/abs/2309.00071) leaves the pairs that turn more than ``beta_fast`` times within
    ``original_context`` positions as they are, divides those that turn less than ``beta_slow`` times, and multiplies
    sines and cosines by ``attention_factor``.
    """

    kind: Literal["linear", "yarn"]
    factor: float
    original_context: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Rope:
    theta: float
    scaling: RopeScaling | None = None


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """The paper's factor on sines and cosines, as transformers and llama.cpp have it: 1 up to a factor of 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def read_rope(fields: Fields, max_positions: int) -> tuple[Rope, Rope]:
    """The RoPE of full and of sliding-window attention.

    Raises ``CheckpointError`` for a wrong value and ``UnsupportedError`` for a kind of scaling that is not known.
    """
    global_theta = fields.positive("global_rope_theta", 160000.0)
    # transformers 4: a null local_rope_theta stands for the global one
    absent = global_theta if "local_rope_theta" in fields.values else 10000.0
    local_theta = fields.positive("local_rope_theta", absent)
    parameters = fields.object("rope_parameters")
    for key in parameters.values:
        if key not in (FULL, SLIDING):
            raise UnsupportedError(f"{fields.path}: rope_parameters has {key!r}; known are {FULL} and {SLIDING}")
    older = fields.object("rope_scaling").values
    found = []
    for key, theta in ((FULL, global_theta), (SLIDING, local_theta)):
        # transformers fills in an absent object before it merges the older key
        own = parameters.object(key).values or {"rope_type": "default"}
        found.append(_read(Fields(fields.path, {**own, **older}), f"RoPE of {key}", theta, max_positions))
    return found[0], found[1]


def _read(rope: Fields, where: str, theta: float, max_positions: int) -> Rope:
    kind = rope.string("rope_type", rope.string("type", "default"))
    theta = rope.positive("rope_theta", theta)
    if kind not in _KEYS:
        raise UnsupportedError(f"{rope.path}: {where} of type {kind!r} is not known; known are {', '.join(_KEYS)}")
    if rope.positive("partial_rotary_factor", 1.0) != 1:
        raise UnsupportedError(f"{rope.path}: {where} with a partial_rotary_factor cannot be converted")
    for key, value in rope.values.items():
        if key not in _KEYS["yarn"] or (kind != "default" and key not in _KEYS[kind]):
            raise UnsupportedError(f"{rope.path}: {where}: {key}={value!r} is not known")
    if kind == "default":
        if rope.string("type", "default") != "default":
            _log.warning(
                "%s: %s has type %r and rope_type 'default': as in transformers, nothing is scaled",
                rope.path,
                where,
                rope.get("type"),
            )
        return Rope(theta)
    if kind == "dynamic":
        # NTK scaling by the length of the text begins beyond max_position_embeddings, where texts are cut
        rope.positive("factor", 1.0)
        return Rope(theta)
    original = rope.integer("original_max_position_embeddings", max_positions)
    if rope.get("factor") is None and kind == "linear":
        raise rope.wrong("factor", "a positive number")
    factor = rope.positive("factor", max_positions / original)
    if kind == "linear":
        return Rope(theta, RopeScaling("linear", factor))
    if rope.get("truncate") is False:
        _log.info("%s: %s: truncate=false is read by nothing in transformers' ModernBERT", rope.path, where)
    return Rope(
        theta,
        RopeScaling(
            "yarn",
            factor,
            original_context=original,
            attention_factor=_attention_factor(rope, factor),
            beta_fast=_number(rope, "beta_fast") or 32.0,
            beta_slow=_number(rope, "beta_slow") or 1.0,
        ),
    )


def _attention_factor(rope: Fields, factor: float) -> float:
    mscale, all_dim = _number(rope, "mscale"), _number(rope, "mscale_all_dim")
    ratio = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim) if mscale and all_dim else None
    return rope.positive("attention_factor", yarn_magnitude(factor) if ratio is None else ratio)


def _number(rope: Fields, key: str) -> float:
    """0 where the key is absent, null or 0: transformers takes its default for each."""
    return 0.0 if rope.get(key) == 0 else rope.positive(key, 0.0)
