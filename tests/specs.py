"""The checkpoint shapes and text lengths of the parity tests, and how golden vectors are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from modernbert_llama.synthetic import CheckpointSpec
from numpy.typing import NDArray

GOLDEN: Final = Path(__file__).parent / "golden"
POOLINGS: Final = ("cls", "mean", "last")  # the rows of every golden array

HEAD_SIZES: Final = (48, 80, 96, 112, 128)  # beside 32 and 64, which the others have

_PROMPTS: Final = (("query", "search_query: "), ("document", "search_document: "))
# mmBERT-32K's, on fewer positions
_YARN: Final = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
_LINEAR: Final = {"rope_type": "linear", "factor": 3.0}
_S, _F = "sliding_attention", "full_attention"


def _small(name: str, seed: int, n_layer: int = 7, **changes: object) -> CheckpointSpec:
    return CheckpointSpec(name, n_layer, 128, 192, 4, seed=seed, **changes)  # type: ignore[arg-type]


SPECS: Final = {
    spec.name: spec
    for spec in (
        # the first port's tiny model: both layers global, no modules.json
        CheckpointSpec("tiny", 2, 256, 512, 4, global_every=1, config_format=4, pooling=None, seed=1),
        CheckpointSpec("base", 22, 768, 1152, 12, pooling="mean", prompts=_PROMPTS, seed=2),
        # config.json says mean, the module says CLS
        CheckpointSpec(
            "granite-small", 12, 384, 1536, 12, global_theta=80000.0, classifier_pooling="mean", config_format=4, seed=3
        ),
        CheckpointSpec("large", 28, 1024, 2624, 16, seed=4),
        _small("deep28", 5, 28, normalize=False),
        _small("biases", 6, attention_bias=True, mlp_bias=True, norm_bias=True, prefix="model.", shards=3),
        _small("biases4", 7, attention_bias=True, mlp_bias=True, norm_bias=True, config_format=4, pooling="mean"),
        _small("attention-bias", 8, attention_bias=True, pooling="lasttoken"),
        _small("silu", 9, activation="silu", global_theta=150000.0, local_theta=160000.0, max_positions=32768),
        _small("relu", 10, activation="relu"),
        _small("gelu-tanh", 11, activation="gelu_pytorch_tanh", pooling="mean"),
        _small("every2", 12, global_every=2),
        _small("every5", 13, n_layer=11, global_every=5, config_format=4, pooling="mean"),
        _small("irregular", 14, n_layer=8, layer_types=(_S, _S, _F, _S, _F, _F, _S, _S)),
        _small("window32", 15, window=32),
        # Ettin: one theta, 7999 positions, stored in half precision; and a norm_eps that is not layer_norm_eps
        _small(
            "ettin", 16, local_theta=160000.0, max_positions=7999, config_format=4, norm_eps=1e-3, layer_norm_eps=1e-5
        ),
        _small("stored-f16", 17, stored="F16", pooling="mean"),
        _small("stored-bf16", 18, stored="BF16", prefix="model.", config_format=4),
        # RoPE scaling: one for all layers in the older form, then one for each kind of layers
        _small(
            "yarn",
            19,
            local_theta=160000.0,
            max_positions=1024,
            config_format=4,
            global_scaling=_YARN,
            local_scaling=_YARN,
        ),
        _small("linear", 20, config_format=4, global_scaling=_LINEAR, local_scaling=_LINEAR, pooling="mean"),
        _small("yarn-global", 21, global_scaling=_YARN | {"attention_factor": 1.4, "beta_fast": 16, "beta_slow": 2}),
        _small(
            "yarn-local",
            22,
            global_scaling=_LINEAR,
            local_scaling=_YARN | {"factor": 2.5, "beta_fast": 8, "mscale": 2.0, "mscale_all_dim": 0.5},
            pooling="mean",
        ),
        CheckpointSpec(
            "positions32768",
            4,
            64,
            96,
            2,
            local_theta=160000.0,
            max_positions=32768,
            global_scaling=_YARN | {"original_max_position_embeddings": 8192},
            local_scaling=_YARN | {"original_max_position_embeddings": 8192},
            seed=23,
        ),
        *(CheckpointSpec(f"head{size}", 4, 2 * size, 96, 2, pooling="mean", seed=24 + size) for size in HEAD_SIZES),
    )
}

LENGTHS: Final = (1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 1000)
_SOME_LENGTHS: Final[dict[str, tuple[int, ...]]] = {
    "base": (*LENGTHS, 8192),
    "granite-small": (*LENGTHS, 8192),
    "every2": (*LENGTHS, 8192),
    "window32": (15, 16, 17, 18, 31, 32, 33, 34, *LENGTHS),
    "large": (2, 130, 1000),
    "positions32768": (130, 1000, 9000, 20000),
    **{f"head{size}": (2, 130, 513) for size in HEAD_SIZES},
    **dict.fromkeys(("yarn", "linear", "yarn-global", "yarn-local"), (1, 66, 130, 1000)),
}


def lengths(name: str) -> tuple[int, ...]:
    """The lengths, in tokens, that the golden file of a spec holds."""
    return _SOME_LENGTHS.get(name, LENGTHS)


def is_slow(name: str, length: int) -> bool:
    """Whether a case takes seconds, or gigabytes, and so hides behind the ``slow`` marker."""
    return name == "large" or length > 1000 or (name == "base" and length not in (1, 65, 130, 1000))


def golden_arrays(name: str) -> dict[str, NDArray[np.float64]]:
    """The golden file of a spec.

    For every length N: ``N``, the float64 embeddings (3 poolings, width); ``N-float32``, the relative L2 error of
    transformers' own float32, and ``N-bfloat16``, 1 - cosine of its bfloat16, each (3 poolings,).
    """
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def relative_error(ours: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Relative L2 error."""
    reference = reference.astype(np.float64)
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def cosine_distance(ours: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """1 - cosine, in float64, computed so that it is exact near 0: half the squared distance of the unit vectors."""
    a, b = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64)) for x in (ours, reference))
    return float(np.sum((a - b) ** 2) / 2)
