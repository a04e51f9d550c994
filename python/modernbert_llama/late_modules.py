"""What the folder of a late-interaction model says, as PyLate, ColBERT's own code and sentence-transformers 6 save it.

The encoder gives a vector a token. Behind it come Dense modules, and what queries and documents have of their own:
markers, lengths, the tokens that queries are filled up with, the tokens whose vectors are left out.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modernbert_llama.errors import CheckpointError, UnsupportedError
from modernbert_llama.heads import STANFORD
from modernbert_llama.hf_tokenizer import TokenizerSpec, load_tokenizer
from modernbert_llama.jsonfile import Fields
from modernbert_llama.roles import Expansion, Role
from modernbert_llama.safetensors_reader import StoredTensor
from modernbert_llama.sentence_modules import (
    Pipeline,
    read_modules,
    read_prompts,
    read_step,
    refuse_unknown,
    transformer_folder,
    transformer_limit,
    transformer_part,
)
from modernbert_llama.similarity import LATE_SIMILARITIES
from modernbert_llama.steps import Dense, Normalize, Step, width_after

__all__ = ["STANFORD_WEIGHT", "read_late_interaction"]

STANFORD_WEIGHT: Final = "linear.weight"  # the projection that ColBERT's own code saves beside the encoder
_TOKENS: Final = "token_embeddings"
_QUERY_LENGTH, _DOCUMENT_LENGTH = 32, 180  # PyLate's defaults
_PYLATE_KEYS: Final = ("query_prefix", "document_prefix", "attend_to_expansion_tokens", "do_query_expansion")
_ROLE_KEYS: Final = ("query_length", "document_length", "query_expansion")


def read_late_interaction(
    folder: Path,
    *,
    hidden_size: int,
    max_positions: int,
    tokenizer: TokenizerSpec,
    tensors: Mapping[str, StoredTensor],
    config: Fields,
) -> Pipeline | None:
    """The pipeline of ``folder``, with its roles; None if it is no late-interaction model.

    ``tensors`` are those of the encoder's folder, ``config`` is its config.json.
    """
    saved = Fields.read_optional(folder / "config_sentence_transformers.json")
    reader = _Reader(folder, saved, hidden_size, max_positions, tokenizer)
    kind = saved.string("model_type", "")
    if read_modules(folder):
        if kind == "MultiVectorEncoder":
            return reader.sentence_transformers()
        if kind == "ColBERT" or (not kind and any(key in saved.values for key in _PYLATE_KEYS)):
            return reader.pylate()
    elif STANFORD in (config.strings("architectures") or ()):
        return reader.stanford(tensors)
    return None


@dataclass(frozen=True)
class _Reader:
    folder: Path
    saved: Fields
    hidden_size: int
    max_positions: int
    tokenizer: TokenizerSpec

    def pylate(self) -> Pipeline:
        saved = self.saved
        words = _words(saved, "skiplist_words")
        unknown = self.tokenizer.special.get("unk_token")  # what PyLate skips for a word that is no token
        skip = self.ids(list(string.punctuation) if words is None else words, unknown)
        expansion = None
        if saved.boolean("do_query_expansion", True):
            attend = saved.boolean("attend_to_expansion_tokens", False)
            length = saved.integer("query_length", _QUERY_LENGTH)
            expansion = Expansion(length, self.filler(None), attend)
        query = Role(
            self.marker(saved.string("query_prefix", "[Q] "), saved),
            saved.integer("query_length", _QUERY_LENGTH),
            expansion,
            strip=True,
        )
        document = Role(
            self.marker(saved.string("document_prefix", "[D] "), saved),
            saved.integer("document_length", _DOCUMENT_LENGTH),
            skip=skip,
            strip=True,
        )
        steps, _, _ = self.steps(("Dense",))
        return self.pipeline({"query": query, "document": document}, steps, normalize=True)

    def sentence_transformers(self) -> Pipeline:
        transformer = Fields.read_optional(transformer_folder(self.folder) / "sentence_bert_config.json")
        steps, normalize, mask = self.steps(("Dense", "Dropout", "MultiVectorMask", "Normalize"))
        expansion = self.expansion(transformer.object("query_expansion"))
        if mask is None and expansion is not None:
            raise UnsupportedError(
                f"{transformer.path}: query_expansion without a MultiVectorMask module cannot be converted"
            )
        skip: dict[str, tuple[int, ...]] = {}
        if mask is not None:
            refuse_unknown(mask, ("skiplist_words", "skiplist_tasks"))
            tasks = mask.get("skiplist_tasks")
            for task in [tasks] if isinstance(tasks, str) else mask.strings("skiplist_tasks") or ("document",):
                skip[task] = self.ids(_words(mask, "skiplist_words") or (), None)
        roles = {
            "query": Role(
                length=transformer.optional_integer("query_length"), expansion=expansion, skip=skip.get("query", ())
            ),
            "document": Role(length=transformer.optional_integer("document_length"), skip=skip.get("document", ())),
        }
        return self.pipeline(roles, steps, normalize)

    def stanford(self, tensors: Mapping[str, StoredTensor]) -> Pipeline:
        """As sentence-transformers reads it, and as it was trained: the marker, a space and the text."""
        found = Fields.read_optional(self.folder / "artifact.metadata")
        stored = tensors.get(STANFORD_WEIGHT)
        if stored is None or len(stored.shape) != 2 or stored.shape[1] != self.hidden_size:
            raise CheckpointError(f"{self.folder}: no tensor {STANFORD_WEIGHT!r} of {self.hidden_size} columns")
        skip = self.ids(string.punctuation, None) if found.boolean("mask_punctuation", True) else ()
        length = found.integer("query_maxlen", _QUERY_LENGTH)
        roles = {
            "query": Role(
                length=length,
                expansion=Expansion(length, self.filler(None), found.boolean("attend_to_mask_tokens", False)),
            ),
            "document": Role(length=found.optional_integer("doc_maxlen"), skip=skip),
        }
        prompts = {}
        for role, key, default in (
            ("query", "query_token_id", "[unused0]"),
            ("document", "doc_token_id", "[unused1]"),
        ):
            self.marker(found.string(key, default), found)
            prompts[role] = found.string(key, default) + " "
        steps = (Dense("Identity", stored.read(), None, False, None, None),)
        return self.pipeline(roles, steps, normalize=True, prompts=prompts)

    def pipeline(
        self, roles: Mapping[str, Role], steps: Sequence[Step], normalize: bool, prompts: dict[str, str] | None = None
    ) -> Pipeline:
        name = self.saved.optional_string("similarity_fn_name")
        if name is not None and name.lower() not in LATE_SIMILARITIES:
            raise UnsupportedError(
                f"{self.saved.path}: similarity_fn_name {name!r} is not known; known are {', '.join(LATE_SIMILARITIES)}"
            )
        transformer = transformer_folder(self.folder) / "sentence_bert_config.json"
        if transformer_part(transformer) != "feature-extraction":
            raise UnsupportedError(
                f"{transformer}: only the encoder's own vectors can be converted in this kind of model"
            )
        limit = transformer_limit(transformer, _ROLE_KEYS)
        return Pipeline(
            task="multi-vector",
            pooling="none",
            include_prompt=True,
            steps=tuple(steps),
            normalize=normalize,
            max_seq_length=min(limit or self.tokenizer.model_max_length or self.max_positions, self.max_positions),
            prompts=read_prompts(self.saved) if prompts is None else prompts,
            default_prompt_name=None,
            similarity_fn_name=None if name is None else name.lower(),
            truncate_dim=None,
            matryoshka_dims=(),
            n_scores=None,
            score_activation=None,
            roles=roles,
        )

    def steps(self, known: Sequence[str]) -> tuple[tuple[Step, ...], bool, Fields | None]:
        """The steps behind the encoder, whether they end with Normalize, and the MultiVectorMask module's config."""
        steps: list[Step] = []
        width, mask = self.hidden_size, None
        for kind, where in read_modules(self.folder)[1:]:
            if kind not in known:
                raise UnsupportedError(
                    f"{self.folder / 'modules.json'}: a {kind} module cannot be converted in this kind of model"
                )
            if kind == "MultiVectorMask":
                mask = Fields.read_optional(self.folder / where / "config.json")
                continue
            steps += read_step(kind, self.folder / where, width, _TOKENS)
            width = width_after(steps[-1], width) if steps else width
        normalize = bool(steps) and isinstance(steps[-1], Normalize)
        return tuple(steps[:-1] if normalize else steps), normalize, mask

    def expansion(self, found: Fields) -> Expansion | None:
        if not found.values:
            return None
        refuse_unknown(found, ("strategy", "attend", "token", "length"))
        strategy = found.string("strategy", "fixed")
        if strategy not in ("fixed", "min"):
            raise UnsupportedError(f"{found.path}: query_expansion strategy {strategy!r} is not known")
        token = self.filler(found.optional_string("token"))
        attend = found.boolean("attend", False)
        return Expansion(found.integer("length", _QUERY_LENGTH), token, attend, "min" if strategy == "min" else "fixed")

    def filler(self, token: str | None) -> int:
        """The id of the token that queries are filled up with: [MASK] unless named."""
        name = token or self.tokenizer.special.get("mask_token") or self.tokenizer.special.get("eos_token")
        if name is None:
            raise CheckpointError(f"{self.tokenizer.path}: no mask token to fill queries up with")
        return self.ids([name], None, required=True)[0]

    def marker(self, text: str, fields: Fields) -> int | None:
        if not text:
            return None
        found = load_tokenizer(self.tokenizer.path, self.tokenizer.json).token_to_id(text)
        if found is None:
            raise CheckpointError(f"{fields.path}: the marker {text!r} is no token of {self.tokenizer.path}")
        return int(found)

    def ids(self, words: Sequence[str], instead: str | None, *, required: bool = False) -> tuple[int, ...]:
        """The ids of tokens as the vocabulary spells them; for one that is not there that of ``instead``, or none."""
        tokenizer = load_tokenizer(self.tokenizer.path, self.tokenizer.json)
        found: dict[int, None] = {}
        for word in words:
            number = tokenizer.token_to_id(word)
            if number is None and required:
                raise CheckpointError(f"{self.tokenizer.path}: {word!r} is no token")
            if number is None and instead is not None:
                number = tokenizer.token_to_id(instead)
            if number is not None:
                found[int(number)] = None
        return tuple(found)


def _words(fields: Fields, key: str) -> tuple[str, ...] | None:
    return None if fields.get(key) is None else tuple(fields.strings(key) or ())
