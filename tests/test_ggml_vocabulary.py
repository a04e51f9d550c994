"""The ggml vocabulary of spellings that some versions of transformers write; test_tokenizer_forms has the forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modernbert_llama.ggml_vocabulary import TokenType, Vocabulary, make_vocabulary
from modernbert_llama.hf_tokenizer import TokenizerSpec
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

SPACE = "\u2581"
TOKENS = ["<unk>", "<s>", "</s>", "<cls>", "a|b", "x.", SPACE, "a", "b", "c", "l", "s", "<", ">"]


def vocabulary(normalizer: list[Any], pre_tokenizer: list[Any]) -> Vocabulary:
    tokenizer = Tokenizer(models.Unigram([(token, -1.0) for token in TOKENS], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([*normalizer, normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pre_tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    spec = TokenizerSpec(Path("tokenizer.json"), tokenizer.to_str(), {"unk_token": "<unk>"}, None)
    return make_vocabulary(spec, len(TOKENS))


@pytest.mark.parametrize(
    ("regex", "expected"),
    [("<cls>", {"<cls>"}), (r"<cls>|x\.", {"<cls>", "x."}), ("a|b", {"a", "b"})],
)
def test_tokens_that_a_split_sets_apart_are_user_defined(regex: str, expected: set[str]) -> None:
    made = vocabulary([], [pre_tokenizers.Split(Regex(regex), "isolated")])
    assert made.model == "t5", made.why_none
    assert {token for token, kind in zip(made.tokens, made.types, strict=True) if kind == TokenType.USER_DEFINED} == (
        expected
    )


@pytest.mark.parametrize(
    "step",
    [
        pre_tokenizers.Split(Regex("<cls>|zz"), "isolated"),  # no token
        pre_tokenizers.Split(Regex("x."), "isolated"),  # matches more than the token
        pre_tokenizers.Split(Regex("[ab]"), "isolated"),
        pre_tokenizers.Split(Regex(r"a\d"), "isolated"),
        pre_tokenizers.Split(Regex("<cls>"), "removed"),
        pre_tokenizers.Split(Regex("<cls>"), "isolated", invert=True),
    ],
    ids=lambda step: str(step)[:60],
)
def test_any_other_split_has_no_equivalent(step: Any) -> None:
    made = vocabulary([], [step])
    assert made.model == "none"
    assert "Split" in (made.why_none or "")


def test_spaces_at_the_ends_and_a_second_one_in_front() -> None:
    steps = [
        normalizers.Replace(Regex(r"\A +| +\z"), ""),
        normalizers.Replace(Regex(" {2,}"), " "),
    ]
    made = vocabulary(steps, [pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False)])
    assert made.model == "t5", made.why_none
    assert made.flags == {"add_space_prefix": True, "remove_extra_whitespaces": True}
    assert vocabulary([normalizers.Replace(Regex(r"\A +"), "x")], []).model == "none"
