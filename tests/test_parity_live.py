"""Against transformers and sentence-transformers, run here and now: needs the compare extra."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import checkpoint, embedder, full_tokenizer, scratch
from modernbert_llama.convert import convert
from modernbert_llama.embedder import Embedder
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from specs import SPECS, relative_error
from test_parity_golden import own_pooling
from texts import NASTY_TEXTS

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # torch's warnings are not ours to answer for

reference = pytest.importorskip("modernbert_llama.reference")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

QUICK = [name for name in SPECS if name not in ("base", "granite-small", "large", "positions32768")]
TEXTS = ["The river rises in the hills.", "naïve café", "", "A longer one. " * 30]


@pytest.fixture(autouse=True)
def few_threads() -> None:
    torch.set_num_threads(2)


@pytest.mark.parametrize("name", QUICK)
def test_folder_loads_with_nothing_missing_and_nothing_left_over(name: str) -> None:
    _, report = transformers.AutoModel.from_pretrained(str(checkpoint(name)), output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    config = transformers.AutoConfig.from_pretrained(str(checkpoint(name)))
    spec = SPECS[name]
    assert tuple(config.layer_types) == spec.layers
    assert config.rope_parameters["full_attention"]["rope_theta"] == spec.global_theta
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == spec.local_theta
    assert (config.norm_eps, config.local_attention) == (spec.norm_eps, spec.window)


@pytest.mark.parametrize("name", ["every2", "yarn", "linear", "yarn-global", "yarn-local"])
def test_reference_is_transformers_own_forward(name: str) -> None:
    """The float64 reference patches RoPE and attention: in float32, untouched transformers must agree to float32."""
    folder = checkpoint(name)
    ids = token_ids(SPECS[name], 300)
    plain = transformers.AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    exact = reference.Reference(folder).hidden(ids)
    own = reference.Reference(folder, "float32").hidden(ids)
    assert relative_error(expected, exact) < 1e-6
    assert 1e-8 < relative_error(own, exact) < 1e-6
    assert exact.dtype == np.float64


@pytest.mark.parametrize("name", QUICK)
def test_equals_transformers_at_other_lengths(name: str) -> None:
    spec = SPECS[name]
    row = own_pooling(name)
    exact, single = (reference.Reference(checkpoint(name), p) for p in ("float64", "float32"))
    for length in (7, 65, 97, 200, 513):
        ids = token_ids(spec, length, seed=99)
        expected = reference.pool(exact.hidden(ids), row)
        bar = 10 * relative_error(reference.pool(single.hidden(ids), row), expected)
        assert relative_error(embedder(name).embed_tokens([ids])[0], expected) <= bar


@pytest.mark.parametrize("name", ["tiny", "biases", "ettin"])
def test_token_ids_of_nasty_texts(name: str) -> None:
    expected = reference.reference_ids(checkpoint(name), NASTY_TEXTS)
    assert [embedder(name).tokenize(text) for text in NASTY_TEXTS] == expected


PIECES = (
    "[MASK]",
    "[SEP]",
    " ",
    "  ",
    "\n",
    "e\u0301",
    "'ll",
    "the river",
    "\U0001f468\u200d\U0001f469",
    "|||IP_ADDRESS|||",
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(PIECES)), max_size=8).map("".join))
def test_token_ids_of_any_text(text: str) -> None:
    assert embedder("tiny").tokenize(text) == reference.reference_ids(checkpoint("tiny"), [text])[0]


def test_token_ids_with_the_full_vocabulary() -> None:
    spec = CheckpointSpec("full-live", 1, 64, 64, 1, vocab="full", config_format=4)
    folder = write_checkpoint(scratch() / "full-live", spec, full_tokenizer())
    model = Embedder(convert(folder, scratch() / "full-live.gguf", outtype="q8_0", show_progress=False))
    assert [model.tokenize(text) for text in NASTY_TEXTS] == reference.reference_ids(folder, NASTY_TEXTS)


@pytest.mark.parametrize("name", ["base", "deep28", "biases4", "attention-bias", "silu", "stored-bf16"])
def test_texts_equal_sentence_transformers(name: str) -> None:
    module = pytest.importorskip("sentence_transformers")
    theirs: Any = module.SentenceTransformer(str(checkpoint(name)), model_kwargs={"dtype": "float32"}, device="cpu")
    ours = embedder(name)
    assert ours.max_length == theirs.max_seq_length
    assert dict(ours.prompts).items() >= {k: v for k, v in theirs.prompts.items() if v}.items()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.encode(TEXTS, convert_to_numpy=True)
        for a, b in zip(ours.embed(TEXTS), expected, strict=True):
            assert relative_error(a, b) < 5e-6
        for prompt in SPECS[name].prompts:
            expected = theirs.encode(TEXTS, convert_to_numpy=True, prompt_name=prompt[0])
            for a, b in zip(ours.embed(TEXTS, prompt_name=prompt[0]), expected, strict=True):
                assert relative_error(a, b) < 5e-6
