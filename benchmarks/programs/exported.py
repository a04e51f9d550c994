"""The model as a graph for other run times: ids and mask in, pooled vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from modernbert_llama.synthetic import token_ids
from transformers import AutoModel

from benchmarks.programs.base import padding_tokenizer
from benchmarks.texts import english_texts

if TYPE_CHECKING:
    from benchmarks.shapes import Files

__all__ = ["Encoder", "calibration_rows", "example"]


class Encoder(torch.nn.Module):  # type: ignore[misc]
    """transformers' model with pooling, and with masks that trace well for any batch and length.

    The mask of the global layers is one row a text; only that of the local layers is a square.
    """

    def __init__(self, files: Files) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(str(files.checkpoint), attn_implementation="sdpa").eval()
        self.half_window = files.spec.window // 2
        self.mean = files.spec.pooling == "mean"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(rows, tokens) twice -> (rows, width)."""
        there = attention_mask.bool()[:, None, None, :]
        place = torch.arange(input_ids.shape[1])
        distance = (place[:, None] - place[None, :]).abs()
        near, itself = (distance <= self.half_window)[None, None], (distance == 0)[None, None]
        # padding far behind a text sees itself: a row of nothing would be NaN
        masks = {"full_attention": there, "sliding_attention": there & near | itself}
        hidden: torch.Tensor = self.model(input_ids, attention_mask=masks).last_hidden_state
        if not self.mean:
            return hidden[:, 0]
        weights = attention_mask.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(1) / weights.sum(1)


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
