"""The public API: :class:`Classifier`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, overload

import numpy as np

from modernbert_llama.errors import InputError
from modernbert_llama.model import text_list
from modernbert_llama.sequence_head import activate
from modernbert_llama.sequence_model import SequenceModel, check_top_k
from modernbert_llama.tokenizer import Pair, check_pair, check_text

__all__ = ["Classifier", "LabelScore"]


class LabelScore(TypedDict):
    """A label and its score."""

    label: str
    score: float


class Classifier(SequenceModel):
    """A ModernBERT text classifier: a score for each label of a text, or of a pair of texts.

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend.
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

    # a str is a sequence of str, but the first that fits is taken
    @overload
    def classify(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        top_k: int | None = ...,
        raw: bool = ...,
        truncate: bool = ...,
        max_length: int | None = ...,
        show_progress: bool | None = ...,
    ) -> list[LabelScore]: ...

    @overload
    def classify(
        self,
        texts: Sequence[str | Pair],
        *,
        top_k: int | None = ...,
        raw: bool = ...,
        truncate: bool = ...,
        max_length: int | None = ...,
        show_progress: bool | None = ...,
    ) -> list[list[LabelScore]]: ...

    def classify(
        self,
        texts: str | Sequence[str | Pair],
        *,
        top_k: int | None = 1,
        raw: bool = False,
        truncate: bool = True,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> list[LabelScore] | list[list[LabelScore]]:
        """Classify one text or several.

        Args:
            texts: a string, or a list of strings and of pairs of strings (as in entailment).
            top_k: the best so many labels of each text; None for all.
            raw: the logits, in place of what transformers' pipeline makes of them: the softmax over the labels; the
                sigmoid of each where there is one label or the checkpoint is multi-label; the logits of a regression.
            truncate: cut what is too long, keeping the closing special token, of a pair the longer text first;
                otherwise raise.
            max_length: a limit in tokens below the model's own.
            show_progress: a progress bar on standard error.

        Returns:
            For each text a list of {"label": name, "score": float}, best first; for a string alone that list itself.

        Raises:
            InputError: an item that is neither a string nor a pair of strings, or has a lone surrogate; a bad limit.
            TooLongError: a text over the limit with ``truncate=False``.
        """
        check_top_k(top_k)
        items, single = text_list(texts)
        logits = self._logits(
            [_checked(item, index) for index, item in enumerate(items)],
            prompt_name=None,
            prompt=None,
            truncate=truncate,
            max_length=max_length,
            show_progress=show_progress,
        )
        scores = logits if raw or not len(logits) else activate(self._activation, logits)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        results: list[list[LabelScore]] = [
            [{"label": self.labels[label], "score": float(np.float32(row[label]))} for label in best.tolist()]
            for row, best in zip(scores, order, strict=True)
        ]
        return results[0] if single else results

    @property
    def _activation(self) -> str:
        """What transformers' pipeline chooses by problem_type and the number of labels."""
        if self._info.problem_type == "regression":
            return "Identity"
        if self._info.problem_type == "multi_label_classification" or len(self.labels) == 1:
            return "Sigmoid"
        return "Softmax"


def _checked(item: object, index: int) -> str | Pair:
    if isinstance(item, (tuple, list)):
        return check_pair(item, index)
    if not isinstance(item, str):
        raise InputError(f"text {index} is {type(item).__name__}, expected str or a pair of str")
    return check_text(item, index)
