"""The public API: :class:`MaskedLM`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import InputError, ModelFileError
from modernbert_llama.model import HeadModel, progress_bar, text_list
from modernbert_llama.tokenizer import check_text

__all__ = ["Fill", "Fills", "MaskedLM"]

_TEXTS = 128  # whose masks are computed at once: each mask is a row as wide as the vocabulary


class Fill(TypedDict):
    """A token for a mask: its probability, its id, its text, and the text with it in the place of the mask."""

    score: float
    token: int
    token_str: str
    sequence: str


# of a text with one mask the tokens for it, best first; of a text with several such a list for each mask
Fills = list[Fill] | list[list[Fill]]


class MaskedLM(HeadModel):
    """A ModernBERT masked language model: the tokens that fit in the place of each [MASK].

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend; the head stays on the CPU.
        dtype: type of the weights when a folder or id is converted: "f32" (default), "f16", "bf16" or "q8_0".
        revision: branch, tag or commit of a hub id.
        cache_dir: where conversions are kept.
        per_channel: faster and less exact products of q8_0 weights, as in :class:`Embedder`.

    Safe to use from several threads; they take turns on the model.

    Raises:
        ModelNotFoundError: no such file, folder or id.
        ModelFileError: a damaged or foreign GGUF file.
        CheckpointError: a checkpoint that cannot be converted.
        InputError: an argument that cannot be used, or a model of another kind; the message says which class is for it.
        OutOfMemoryError: the model does not fit.
    """

    _TASKS: ClassVar[frozenset[keys.Task]] = frozenset({"fill-mask", "sparse-embedding"})

    def _set_up(self) -> None:
        self._engine.load_head()
        mask = self._info.metadata.get("tokenizer.ggml.mask_token_id")
        if not isinstance(mask, int):
            raise ModelFileError(f"{self._path}: the file names no mask token")
        self._mask = mask
        self._pad = self._info.metadata.get("tokenizer.ggml.padding_token_id")

    @property
    def mask_token(self) -> str:
        """What stands in a text for a token to be found, such as "[MASK]"."""
        return self._tokenizer.token(self._mask)

    def fill(
        self,
        texts: str | Sequence[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> Fills | list[Fills]:
        """The most probable tokens for each mask, as transformers' fill-mask pipeline gives them.

        Args:
            texts: a string, or a sequence of strings; each holds one mask token or several.
            top_k: how many tokens for each mask.
            targets: only these tokens, as the vocabulary spells them; of any other text its first token. The scores
                stay probabilities over the whole vocabulary.
            truncate: cut texts that are too long, keeping the closing special token; otherwise raise.
            max_length: a limit in tokens below the model's own.
            show_progress: a progress bar on standard error.

        Returns:
            For a text with one mask a list of {"score", "token", "token_str", "sequence"}, best first; for a text with
            several a list of such lists, one for each mask, where each sequence keeps the other masks. For a sequence
            of texts a list of these, of one text as well.

        Raises:
            InputError: a text without a mask, or whose masks are cut off; an item that is not a string or has a lone
                surrogate; bad limits or targets.
            TooLongError: a text over the limit with ``truncate=False``.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise InputError(f"top_k is {top_k!r}, expected at least 1")
        items, single = text_list(texts)
        chosen = None if targets is None else self._target_ids(targets)
        ids = self._token_ids(items, "", truncate, self._limit(max_length))
        rows = [[place for place, token in enumerate(text) if token == self._mask] for text in ids]
        for index, places in enumerate(rows):
            if not places:
                raise InputError(f"text {index} has no {self.mask_token} within {self._limit(max_length)} tokens")
        results: list[Fills] = []
        with progress_bar(len(ids), show_progress) as advance:
            for start in range(0, len(ids), _TEXTS):
                part = slice(start, start + _TEXTS)

                def report(done: int, before: int = start) -> None:
                    advance(before + done)

                logits = self._engine.head_rows(ids[part], rows[part], report)
                at = 0
                for text, places in zip(ids[part], rows[part], strict=True):
                    fills = [
                        self._fills(text, place, row, chosen, top_k, skip_special=len(places) == 1)
                        for place, row in zip(places, logits[at : at + len(places)], strict=True)
                    ]
                    at += len(places)
                    results.append(fills if len(fills) > 1 else fills[0])
        return results[0] if single else results

    def _fills(
        self,
        ids: list[int],
        place: int,
        logits: NDArray[np.float32],
        chosen: NDArray[np.int64] | None,
        top_k: int,
        *,
        skip_special: bool,
    ) -> list[Fill]:
        exact = logits.astype(np.float64)
        weights = np.exp(exact - exact.max())
        scores = weights / weights.sum()
        candidates = np.arange(len(scores)) if chosen is None else chosen
        if top_k < len(candidates):
            # all that are as good as the last one, so that of equal ones the first is taken
            limit = np.partition(exact[candidates], -top_k)[-top_k]
            candidates = candidates[exact[candidates] >= limit]
        best = candidates[np.argsort(-exact[candidates], kind="stable")][:top_k]
        fills: list[Fill] = []
        for token in best.tolist():
            filled = [token if i == place else other for i, other in enumerate(ids)]
            fills.append(
                {
                    "score": float(scores[token]),
                    "token": token,
                    "token_str": self._tokenizer.decode([token], skip_special=False),
                    "sequence": self._tokenizer.decode(
                        [other for other in filled if other != self._pad], skip_special=skip_special
                    ),
                }
            )
        return fills

    def _target_ids(self, targets: str | Sequence[str]) -> NDArray[np.int64]:
        found = set()
        for target in [targets] if isinstance(targets, str) else targets:
            number = self._tokenizer.token_id(check_text(target, 0))
            if number is None:
                pieces = self._tokenizer.encode_plain([target])[0]
                if not pieces:
                    raise InputError(f"the target {target!r} has no token")
                number = pieces[0]
            found.add(number)
        if not found:
            raise InputError("targets is empty: give at least one, or None")
        return np.array(sorted(found), np.int64)
