"""The model as a graph for other run times: ids and mask in, vectors or scores out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from modernbert_llama.synthetic import token_ids
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from benchmarks.programs.base import padding_tokenizer
from benchmarks.texts import english_texts

if TYPE_CHECKING:
    from benchmarks.shapes import Files

__all__ = ["calibration_rows", "example", "make_graph"]


class _Encoder(torch.nn.Module):  # type: ignore[misc]
    """transformers' model with masks that trace well for any batch and length.

    The mask of the global layers is one row a text; only that of the local layers is a square.
    """

    def __init__(self, files: Files, kind: Any = AutoModel) -> None:
        super().__init__()
        self.model = kind.from_pretrained(str(files.checkpoint), attn_implementation="sdpa").eval()
        self.half_window = files.spec.window // 2

    def hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(rows, tokens) twice -> (rows, tokens, width)."""
        there = attention_mask.bool()[:, None, None, :]
        place = torch.arange(input_ids.shape[1])
        distance = (place[:, None] - place[None, :]).abs()
        near, itself = (distance <= self.half_window)[None, None], (distance == 0)[None, None]
        # padding far behind a text sees itself: a row of nothing would be NaN
        masks = {"full_attention": there, "sliding_attention": there & near | itself}
        hidden: torch.Tensor = self.model.base_model(input_ids, attention_mask=masks).last_hidden_state
        return hidden


class _Embedder(_Encoder):
    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self.mean = files.spec.pooling == "mean"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """-> (rows, width)."""
        hidden = self.hidden(input_ids, attention_mask)
        return _mean(hidden, attention_mask) if self.mean else hidden[:, 0]


class _Reranker(_Encoder):
    def __init__(self, files: Files) -> None:
        super().__init__(files, AutoModelForSequenceClassification)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """-> (rows, 1): logits."""
        pooled = _mean(self.hidden(input_ids, attention_mask), attention_mask)
        logits: torch.Tensor = self.model.classifier(self.model.head(pooled))
        return logits


class _SparseEmbedder(_Encoder):
    def __init__(self, files: Files) -> None:
        super().__init__(files, AutoModelForMaskedLM)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """-> (rows, vocabulary); the largest logit first, because log(1 + relu) of one is cheaper than of all."""
        logits = self.model.decoder(self.model.head(self.hidden(input_ids, attention_mask)))
        away = (1.0 - attention_mask.to(logits.dtype))[:, :, None] * 1e6
        return torch.log1p(torch.relu((logits - away).amax(dim=1)))


class _MultiVectorEmbedder(_Encoder):
    def __init__(self, files: Files) -> None:
        super().__init__(files)
        (weights,) = files.checkpoint.glob("*_Dense/model.safetensors")
        self.register_buffer("dense", load_file(weights)["linear.weight"])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """-> (rows, tokens, width), each of length 1."""
        vectors = torch.nn.functional.linear(self.hidden(input_ids, attention_mask), self.dense)
        return torch.nn.functional.normalize(vectors, dim=-1)


def _mean(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    weights = attention_mask.to(hidden.dtype)[:, :, None]
    return (hidden * weights).sum(1) / weights.sum(1)


_GRAPHS: Final = {
    "embed": _Embedder,
    "rerank": _Reranker,
    "sparse": _SparseEmbedder,
    "multi-vector": _MultiVectorEmbedder,
}


def make_graph(files: Files) -> torch.nn.Module:
    """The model of ``files`` for their task: (rows, tokens) ids and mask in, what ``embed_texts`` needs out."""
    return _GRAPHS[files.task](files)


def example(files: Files) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs to trace with: a padded batch."""
    ids = torch.tensor([token_ids(files.spec, 200, seed) for seed in range(2)])
    mask = torch.ones_like(ids)
    mask[1, 150:] = 0
    return ids, mask


def calibration_rows(files: Files) -> Iterator[dict[str, Any]]:
    """What a quantiser may look at: texts and random ids, none of them measured later."""
    tokenizer = padding_tokenizer(files)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(english_texts(32, seed=1000))]
    rows = [ids for ids in rows if ids]
    rows += [token_ids(files.spec, length, seed=1000 + length) for length in range(8, 512, 16)]
    for row in rows:
        ids = torch.tensor([row])
        yield {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()}
