"""transformers as the reference: ModernBERT in float64, in transformers' own float32 or in its bfloat16.

Needs the ``compare`` extra (torch and transformers). In float64 everything is float64: transformers by itself computes
the RoPE angles, and rounds queries and keys, in float32.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from modernbert_llama.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CrossReference",
    "Precision",
    "Reference",
    "SentenceReference",
    "pool",
    "reference_ids",
    "require_extra",
]

Precision = Literal["float64", "float32", "bfloat16"]
_EXTRA: Final = ("torch", "transformers")
_ATTENTION: Final = "modernbert_llama_reference"
_QUERY_ROWS: Final = 256  # queries a step: 8192 tokens in float64 would otherwise need gigabytes of scores


def require_extra(*modules: str) -> None:
    """Raise :class:`MissingExtraError`, naming the extra, unless every module can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{' and '.join(missing)} not installed; the comparison needs it: pip install 'modernbert-llama[compare]'"
        )


def pool(hidden: NDArray[Any], pooling: str) -> NDArray[Any]:
    """Pool (n_tokens, width) to (width,) by the mode of that name, or to (modes * width,) by several joined by "+"."""
    return np.concatenate([_pool(hidden, mode) for mode in pooling.split("+")])


def _pool(hidden: NDArray[Any], mode: str) -> NDArray[Any]:
    n = len(hidden)
    positions = np.arange(1, n + 1)[:, None]
    found = {
        "cls": lambda: hidden[0],
        "last": lambda: hidden[-1],
        "max": lambda: hidden.max(axis=0),
        "mean": lambda: hidden.mean(axis=0),
        "mean_sqrt_len": lambda: hidden.sum(axis=0) / math.sqrt(n),
        "weightedmean": lambda: (hidden * positions).sum(axis=0) / positions.sum(),
    }.get(mode)
    if found is None:
        raise InputError(f"unknown pooling {mode!r}")
    return np.asarray(found())


def reference_ids(folder: Path | str, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of transformers' tokenizer, special tokens included, not truncated."""
    require_extra(*_EXTRA)
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    return [[int(i) for i in tokenizer(text)["input_ids"]] for text in texts]


class Reference:
    """A checkpoint folder in transformers, at one precision.

    ``float64`` is the reference proper; ``float32`` and ``bfloat16`` are what transformers itself gives, with its SDPA
    attention. Hidden states come back as float64 arrays whatever the precision, one text at a time.
    """

    def __init__(self, folder: Path | str, precision: Precision = "float64") -> None:
        require_extra(*_EXTRA)
        import torch
        from transformers import AutoModel

        _register_attention()
        self.precision: Precision = precision
        self._taken: dict[str, NDArray[np.float64]] | None = None
        self._model: Any = AutoModel.from_pretrained(
            str(folder), dtype=getattr(torch, precision), attn_implementation=_ATTENTION
        ).eval()
        if precision == "float64":
            self._model.rotary_emb = _rotary_float64(self._model.config)
        self._hook()

    def hidden(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """The last hidden states, (n_tokens, width), after the final norm."""
        import torch

        with torch.inference_mode(), _rope_in_own_type(self.precision):
            output = self._model(input_ids=torch.tensor([list(ids)], dtype=torch.long))
        return _array(output.last_hidden_state[0])

    def activations(self, ids: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """Every point that llama.cpp's graph names, in the order of computation, each (n_tokens, its width)."""
        self._taken = {}
        try:
            self.hidden(ids)
            return self._taken
        finally:
            self._taken = None

    def _take(self, name: str, value: Any) -> None:
        if self._taken is not None:
            self._taken[name] = _array(value[0])

    def _hook(self) -> None:
        """Name the points of the model as :meth:`activations` returns them."""
        model = self._model

        def after(module: Any, name: str) -> None:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                self._take(name, output[0] if isinstance(output, tuple) else output)

            module.register_forward_hook(hook)

        def before(module: Any, name: str) -> None:
            module.register_forward_pre_hook(lambda _module, inputs: self._take(name, inputs[0]))

        after(model.embeddings.tok_embeddings, "inp_embd")
        after(model.embeddings.norm, "inp_norm-0")
        for i, layer in enumerate(model.layers):
            if i:
                after(layer.attn_norm, f"attn_norm-{i}")
            layer.attn.take_reference = self._take_heads  # read by the attention function below
            after(layer.attn, f"kqv_out-{i}")
            before(layer.mlp_norm, f"ffn_inp-{i}")
            after(layer.mlp_norm, f"ffn_norm-{i}")
            after(layer.mlp, f"ffn_out-{i}")
            after(layer, f"l_out-{i}")
        after(model.final_norm, "final_norm_out")

    def _take_heads(self, name: str, value: Any) -> None:
        if self._taken is not None:  # (1, heads, tokens, size) -> (1, tokens, heads * size)
            self._take(name, value.transpose(1, 2).flatten(2))


class SentenceReference:
    """A checkpoint folder in sentence-transformers, at one precision: its modules, prompts and limits, text by text."""

    def __init__(self, folder: Path | str, precision: Precision = "float64") -> None:
        require_extra(*_EXTRA, "sentence_transformers")
        import torch
        from sentence_transformers import SentenceTransformer

        _register_attention()
        self.precision: Precision = precision
        dtype = getattr(torch, precision)
        options = {"dtype": dtype, "attn_implementation": _ATTENTION}
        self.model: Any = SentenceTransformer(str(folder), device="cpu", model_kwargs=options).to(dtype)
        if precision == "float64":
            encoder = self.model[0].auto_model
            encoder.rotary_emb = _rotary_float64(encoder.config)

    def encode(self, texts: Sequence[str], **options: Any) -> NDArray[np.float64]:
        """``SentenceTransformer.encode`` with its options: (n, width)."""
        with _rope_in_own_type(self.precision):
            rows = [self.model.encode([text], convert_to_tensor=True, **options)[0] for text in texts]
        return np.stack([_array(row) for row in rows])


class CrossReference:
    """A cross-encoder or text classifier in sentence-transformers, at one precision, pair by pair."""

    def __init__(self, folder: Path | str, precision: Precision = "float64") -> None:
        require_extra(*_EXTRA, "sentence_transformers")
        import torch
        from sentence_transformers import CrossEncoder

        _register_attention()
        self.precision: Precision = precision
        dtype = getattr(torch, precision)
        options = {"dtype": dtype, "attn_implementation": _ATTENTION}
        self.model: Any = CrossEncoder(str(folder), device="cpu", model_kwargs=options).to(dtype)
        if precision == "float64":
            encoder = self.model[0].auto_model
            encoder = getattr(encoder, "model", encoder)
            encoder.rotary_emb = _rotary_float64(encoder.config)

    def predict(self, pairs: Sequence[tuple[str, str]], *, raw: bool = False, **options: Any) -> NDArray[np.float64]:
        """``CrossEncoder.predict`` with its options: (n, labels), with ``raw`` the logits."""
        import torch

        if raw:
            options["activation_fn"] = torch.nn.Identity()
        with _rope_in_own_type(self.precision):
            rows = [self.model.predict([pair], convert_to_tensor=True, **options)[0] for pair in pairs]
        return np.stack([_array(row) for row in rows]).reshape(len(pairs), -1)


def _array(tensor: Any) -> NDArray[np.float64]:
    import torch

    return np.asarray(tensor.detach().to(torch.float64).numpy())


def _rotary_float64(config: Any) -> Any:
    """A module with the call of transformers' rotary embedding and float64 angles throughout."""
    import torch

    class Rotary(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, position_ids: Any, layer_type: str) -> tuple[Any, Any]:
            frequencies, magnitude = _frequencies(config, config.rope_parameters[layer_type])
            angles = position_ids[..., None].double() * torch.from_numpy(frequencies)
            angles = torch.cat((angles, angles), dim=-1)
            return (angles.cos() * magnitude).to(x.dtype), (angles.sin() * magnitude).to(x.dtype)

    return Rotary()


def _frequencies(config: Any, parameters: dict[str, Any]) -> tuple[NDArray[np.float64], float]:
    """What each pair of a head turns a position, and the factor on sines and cosines: transformers' in float64."""
    kind = parameters.get("rope_type", "default")
    size = config.hidden_size // config.num_attention_heads
    theta = float(parameters["rope_theta"])
    frequencies: NDArray[np.float64] = np.power(theta, -np.arange(0, size, 2) / size)
    if kind in ("default", "dynamic"):  # dynamic scaling begins beyond max_position_embeddings
        return frequencies, 1.0
    if kind == "linear":
        return frequencies / float(parameters["factor"]), 1.0
    if kind != "yarn":
        raise InputError(f"no float64 reference for rope_type {kind!r}")
    original = parameters["original_max_position_embeddings"]
    factor = float(parameters["factor"] or config.max_position_embeddings / original)

    def pair(turns: float) -> float:  # which turns so often within the original context
        return float(size) * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def magnitude(mscale: float) -> float:
        return 1.0 + (0.1 * mscale * math.log(factor) if factor > 1 else 0.0)

    first = max(math.floor(pair(parameters.get("beta_fast") or 32)), 0)
    last = min(math.ceil(pair(parameters.get("beta_slow") or 1)), size - 1)
    scaled = np.clip((np.arange(size // 2) - first) / max(last - first, 0.001), 0, 1)
    own, top, bottom = (parameters.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if own is None:
        own = magnitude(top) / magnitude(bottom) if top and bottom else magnitude(1)
    return frequencies * (1 - scaled) + frequencies / factor * scaled, float(own)


@contextlib.contextmanager
def _rope_in_own_type(precision: Precision) -> Iterator[None]:
    """For float64: swap transformers' rotation, which rounds queries and keys to float32, for one that does not."""
    if precision != "float64":
        yield
        return
    module: Any = importlib.import_module("transformers.models.modernbert.modeling_modernbert")
    theirs = module.apply_rotary_pos_emb

    def rotate(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + module.rotate_half(q) * sin, k * cos + module.rotate_half(k) * sin

    module.apply_rotary_pos_emb = rotate
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = theirs


def _register_attention() -> None:
    """Give transformers an attention that shows its inputs to :class:`Reference`, chunked and exact in float64."""
    import torch
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> tuple[Any, None]:
        for name, value in (("Qcur", q), ("Kcur", k), ("Vcur", v)):
            if hasattr(module, "take_reference"):
                module.take_reference(f"{name}-{module.layer_idx}", value)
        if q.dtype != torch.float64:
            output, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
            return output, None
        return _attention_float64(q, k, v, mask, options["scaling"]).transpose(1, 2).contiguous(), None

    AttentionInterface.register(_ATTENTION, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_ATTENTION, sdpa_mask)


def _attention_float64(q: Any, k: Any, v: Any, mask: Any, scaling: float) -> Any:
    """softmax(q k' * scaling, where ``mask`` is true) v for (1, heads, tokens, size), some queries at a time."""
    import torch

    blocks = []
    for start in range(0, q.shape[2], _QUERY_ROWS):
        rows = slice(start, start + _QUERY_ROWS)
        first, last = 0, k.shape[2]
        seen = None if mask is None else mask[:, :, rows]
        if seen is not None:  # a local layer's rows see a band of keys: leave the rest out
            columns = seen[0, 0].any(dim=0).nonzero()
            first, last = int(columns[0]), int(columns[-1]) + 1
        scores = q[:, :, rows] @ k[:, :, first:last].transpose(2, 3) * scaling
        if seen is not None:
            scores = scores.masked_fill(~seen[..., first:last], float("-inf"))
        blocks.append(torch.softmax(scores, dim=-1) @ v[:, :, first:last])
    return torch.cat(blocks, dim=2)
