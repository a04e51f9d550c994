"""A SentencePiece tokenizer.model as a tokenizer.json: converted by transformers, so that the ids are those it gives.

The one module of the conversion that needs transformers, and only for a checkpoint without a tokenizer.json.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from modernbert_llama.errors import CheckpointError, UnsupportedError
from modernbert_llama.jsonfile import Fields

__all__ = ["Converted", "convert_sentencepiece"]

_ADVICE = "pip install 'modernbert-llama[sentencepiece]', or save the tokenizer with transformers (save_pretrained)"


@dataclass(frozen=True)
class Converted:
    """``special`` maps ``cls_token`` and its like to their text. ``added_tokens_are_left``: the tokens that
    ``added_tokens_decoder`` lists are still to be added, since transformers 5 cannot read it beside a unigram model."""

    tokenizer: Tokenizer
    special: dict[str, str]
    added_tokens_are_left: bool


def convert_sentencepiece(path: Path) -> Converted:
    """The tokenizer of the folder that ``path`` lies in, as AutoTokenizer builds it.

    Raises ``UnsupportedError`` without the libraries, ``CheckpointError`` for a damaged model.
    """
    try:
        import google.protobuf  # noqa: F401
        import sentencepiece  # noqa: F401
        import transformers
    except ImportError as error:
        raise UnsupportedError(
            f"{path} without a tokenizer.json beside it needs {error.name or error}, which is not installed: {_ADVICE}"
        ) from error
    config = Fields.read_optional(path.parent / "tokenizer_config.json")
    with tempfile.TemporaryDirectory(prefix="modernbert-llama-") as name:
        folder = Path(name)
        # nothing else lies in it: no code of the checkpoint's own, no other file that transformers might prefer
        (folder / "config.json").write_text('{"model_type": "modernbert"}', encoding="utf-8")
        shutil.copyfile(path, folder / path.name)
        left = bool(config.object("added_tokens_decoder").values) and _is_unigram(path)
        values = {key: value for key, value in config.values.items() if key not in ("auto_map", "tokenizer_file")}
        if left:
            del values["added_tokens_decoder"]
        else:
            for extra in ("special_tokens_map.json", "added_tokens.json"):
                if (path.parent / extra).exists():
                    shutil.copyfile(path.parent / extra, folder / extra)
        (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
        try:
            loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # protobuf's, tokenizers' and transformers' own
            raise CheckpointError(f"{path} cannot be read as a SentencePiece model: {error}") from error
    return Converted(loaded.backend_tokenizer, dict(loaded.special_tokens_map), left)


def _is_unigram(path: Path) -> bool:
    from sentencepiece import sentencepiece_model_pb2

    try:
        kind: int = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes()).trainer_spec.model_type
    except Exception as error:  # DecodeError of whichever protobuf is installed
        raise CheckpointError(f"{path} cannot be read as a SentencePiece model: {error}") from error
    return kind == 1
