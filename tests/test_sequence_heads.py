"""Rerankers and text classifiers: every form of head equal to sentence-transformers and transformers in float64.

The tests of golden logits need no torch; the live ones build the folder anew. The bars, relative to the largest logit:
f32 1e-5 and the same ranking; bf16 twice what transformers' own bfloat16 errs; q8_0 4.5 %, the length of the error at
the bar of embeddings, 1 - cosine of 1e-3.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from family import golden, rebuild
from gguf_edit import rewrite
from models import scratch
from modernbert_llama import Classifier, Embedder, Reranker, convert, keys, load
from modernbert_llama.errors import (
    CheckpointError,
    InputError,
    ModelFileError,
    ModernBertLlamaError,
    TooLongError,
    TruncationWarning,
    UnsupportedError,
)
from modernbert_llama.gguf_header import read_header
from modernbert_llama.pair_template import FIRST, SECOND, PairTemplate, longest_first
from modernbert_llama.tokenizer import HuggingFaceTokenizer, encode_pairs_within
from numpy.typing import NDArray
from sequence_heads import DOCUMENTS, HEADS, PAIRS, QUERY, HeadRow, encodings
from tiny_checkpoint import CONFIG_5, HIDDEN, edit_json, make_weights, write_modules, write_tiny
from tokenizers import Tokenizer
from upstream_builds import cpu_flags

OutType = Literal["f32", "bf16", "q8_0"]
F32_BAR, BF16_FACTOR, Q8_0_BAR = 1e-5, 2.0, 0.045

ROW = pytest.mark.parametrize("name", HEADS)
CUTS = pytest.mark.filterwarnings("ignore::modernbert_llama.errors.TruncationWarning")


@functools.cache
def folder(name: str) -> Path:
    return rebuild(HEADS[name], scratch() / "heads" / name.replace(" ", "_"))


@functools.lru_cache(maxsize=4)
def gguf(source: Path, outtype: OutType) -> Path:
    return convert(source, scratch() / f"head-{source.name}-{outtype}.gguf", outtype=outtype, show_progress=False)


def logit_error(ours: NDArray[Any], exact: NDArray[Any]) -> float:
    """The largest difference, relative to the largest logit of the same label."""
    return float((np.abs(ours - exact) / np.abs(exact).max(axis=0)).max())


def two_d(scores: NDArray[Any]) -> NDArray[Any]:
    return scores.reshape(len(scores), -1)


def measure(row: HeadRow, outtype: OutType, source: Path, expected: dict[str, NDArray[Any]]) -> dict[str, float]:
    """The largest errors over the encodings: of the logits, of the scores (each relative to its own exact value), and
    the share of the bar. f32 must rank the documents as the reference does."""
    model = Reranker(gguf(source, outtype))
    worst = {"logits": 0.0, "scores": 0.0, "share": 0.0, "theirs": 0.0}
    for name, options in encodings(row).items():
        exact = expected[name]
        logits, scores = model.score(PAIRS, raw=True, **options), model.score(PAIRS, **options)
        assert logits.dtype == scores.dtype == np.float32
        assert logits.shape == ((len(PAIRS),) if len(row.labels) == 1 else (len(PAIRS), len(row.labels)))
        error = logit_error(two_d(logits), exact)
        theirs = logit_error(expected[f"{name}-{'bfloat16' if outtype != 'f32' else 'float32'}"], exact)
        bar = {"f32": F32_BAR, "bf16": BF16_FACTOR * theirs, "q8_0": Q8_0_BAR}[outtype]
        exact_scores = expected[f"{name}-scores"]
        probability = row.activation != "Identity" and (row.activation is not None or len(row.labels) == 1)
        of_scores = np.abs(two_d(scores) / exact_scores - 1).max() if probability else error
        worst["share"] = max(worst["share"], error / bar, of_scores / F32_BAR if outtype == "f32" else 0.0)
        worst["logits"], worst["scores"] = max(worst["logits"], error), max(worst["scores"], of_scores)
        worst["theirs"] = max(worst["theirs"], theirs)
        if outtype == "f32" and len(row.labels) == 1:
            ranking = model.rank(QUERY, DOCUMENTS, **options)
            order = np.argsort(-exact_scores[: len(DOCUMENTS), 0], kind="stable").tolist()
            assert [result["corpus_id"] for result in ranking] == order
    return worst


@ROW
@pytest.mark.parametrize("outtype", get_args(OutType))
@CUTS
def test_equals_the_reference(name: str, outtype: OutType) -> None:
    row = HEADS[name]
    found = measure(row, outtype, folder(name), golden(row))
    assert found["share"] <= 1, found


@ROW
def test_what_the_file_says(name: str) -> None:
    row = HEADS[name]
    path = gguf(folder(name), "q8_0")
    header = read_header(path)
    tensors = {info.name: info.type for info in header.tensors if info.name.startswith("cls")}
    assert header.metadata[keys.TASK] == "sequence-classification"
    assert header.metadata["modern-bert.classifier.output_labels"] == row.labels
    if row.stock:
        expected = {"cls.weight", "cls.norm.weight", "cls.output.weight", "cls.output.bias"}
        assert header.metadata["modern-bert.pooling_type"] == keys.POOLING_RANK
        assert header.metadata["modern-bert.classifier.pooling_type"] in (1, 2)
    else:
        expected = set()
        assert header.metadata["modern-bert.pooling_type"] in (0, 1, 2)
    assert tensors == dict.fromkeys(expected, "f32")
    model = load(path)
    assert type(model) is (Reranker if len(row.labels) == 1 else Classifier)
    assert model.labels == row.labels
    assert model.max_length == (row.max_length or row.positions)


@pytest.mark.parametrize(
    "name", ["two labels, default names", "three labels, mean", "many labels, multi-label", "regression"]
)
@CUTS
def test_classify_as_transformers_pipeline(name: str) -> None:
    row = HEADS[name]
    logits = golden(row)["plain"]
    if row.problem_type == "regression":
        exact = logits
    elif row.problem_type == "multi_label_classification":
        exact = 1 / (1 + np.exp(-logits))
    else:
        exact = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    model = Classifier(gguf(folder(name), "f32"))
    found = model.classify(PAIRS, top_k=None)
    for result, scores in zip(found, exact, strict=True):
        assert [item["label"] for item in result] == [row.labels[i] for i in np.argsort(-scores, kind="stable")]
        np.testing.assert_allclose([item["score"] for item in result], np.sort(scores)[::-1], rtol=F32_BAR, atol=1e-6)
    assert model.classify(PAIRS) == [result[:1] for result in found]
    raw = model.classify(PAIRS, top_k=None, raw=True)
    np.testing.assert_allclose([result[0]["score"] for result in raw], logits.max(axis=1), rtol=1e-4, atol=1e-5)


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["granite-embedding-reranker-english-r2", "japanese-reranker-v2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_thousands_of_pairs_are_cut_as_tokenizers_cuts_them(form: str, side: str) -> None:
    info = Reranker(gguf(folder(form), "q8_0")).info
    assert info.tokenizer_json is not None
    theirs = Tokenizer.from_str(info.tokenizer_json)
    theirs.enable_truncation(64, strategy="longest_first", direction=side)
    ours = HuggingFaceTokenizer(theirs.to_str(), form)
    generator = random.Random(f"{form} {side}")
    letters = "aeinrst .,'\u3042\u4e00\U0001f600\u0308[MASK]"

    def text(longest: int) -> str:
        lengths = [n for n in (0, 1, 5, 9, 14, 15, 29, 30, 31, 60, 90) if n <= longest]
        return "".join(generator.choice(letters) for _ in range(generator.choice(lengths)))

    n_cut = 0
    # tokenizers keeps what it cuts, in every combination of both texts: short texts where the limit is low
    for limit, longest in ((5, 9), (6, 9), (7, 15), (9, 15), (16, 31), (33, 90), (64, 90), (512, 90)):
        theirs.enable_truncation(limit, strategy="longest_first", direction=side)
        pairs = [(text(longest), text(longest)) for _ in range(400)]
        ids, n_over = encode_pairs_within(ours, pairs, limit, True)
        expected = [theirs.encode(*pair).ids for pair in pairs]
        if limit <= ours.pair_template.n_special:  # tokenizers cuts nothing there
            assert all(len(item) <= limit for item in ids)
            continue
        assert ids == expected
        n_cut += n_over
    assert n_cut > 500


def test_longest_first_leaves_the_shorter_text_whole_while_it_can() -> None:
    assert longest_first(3, 4, 10) == (3, 4)
    assert longest_first(3, 40, 10) == (3, 7)
    assert longest_first(40, 3, 10) == (7, 3)
    assert longest_first(40, 40, 11) == (5, 6)
    assert longest_first(41, 40, 11) == (6, 5)
    assert longest_first(40, 0, 0) == (0, 0)


def test_template_is_read_off_a_pair() -> None:
    template = PairTemplate.of([7, 1, 1, 8, 2, 8], [None, 0, 0, None, 1, None], cut_left=False)
    assert template.parts == (7, FIRST, 8, SECOND, 8)
    assert template.join([4, 5], []) == [7, 4, 5, 8, 8]


# --- use --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(gguf(folder("logits of one label"), "f32"))


@CUTS
def test_rank(reranker: Reranker) -> None:
    scores = reranker.score([(QUERY, text) for text in DOCUMENTS])
    ranking = reranker.rank(QUERY, DOCUMENTS, return_documents=True)
    assert sorted(result["corpus_id"] for result in ranking) == list(range(len(DOCUMENTS)))
    assert all(result["text"] == DOCUMENTS[result["corpus_id"]] for result in ranking)
    found = [result["score"] for result in ranking]
    assert found == sorted(found, reverse=True)
    np.testing.assert_allclose(found, np.sort(scores)[::-1], rtol=1e-6)
    top = reranker.rank(QUERY, iter(DOCUMENTS), top_k=3)
    assert [set(result) for result in top] == [{"corpus_id", "score"}] * 3
    assert [result["corpus_id"] for result in top] == [result["corpus_id"] for result in ranking[:3]]
    assert len(reranker.rank(QUERY, DOCUMENTS, top_k=100)) == len(DOCUMENTS)


def test_pairs_may_be_any_sequences(reranker: Reranker) -> None:
    expected = reranker.score([("a", "b"), ("c", "d")])
    for pairs in ([["a", "b"], ["c", "d"]], np.array([["a", "b"], ["c", "d"]]), iter([("a", "b"), ("c", "d")])):
        np.testing.assert_allclose(reranker.score(pairs), expected, rtol=1e-6)


def test_equal_documents_tie_in_the_order_given(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, ["the same"] * 9)
    assert [result["corpus_id"] for result in ranking] == list(range(9))
    assert len({result["score"] for result in ranking}) == 1


def test_nothing_gives_nothing(reranker: Reranker) -> None:
    assert reranker.rank(QUERY, []) == []
    assert reranker.score([]).shape == (0,)
    several = Classifier(gguf(folder("three labels, mean"), "f32"))
    assert several.classify([]) == []
    assert several.classify([], top_k=None) == []
    assert Reranker(gguf(folder("three labels, mean"), "f32")).score([]).shape == (0, 3)


def test_empty_texts_are_scored(reranker: Reranker) -> None:
    assert np.isfinite(reranker.score([("", ""), ("", "x"), ("x", "")])).all()


def test_long_pairs_warn_once_and_are_counted_or_raise() -> None:
    model = Reranker(gguf(folder("logits of one label"), "f32"))
    long = "river " * 500
    with pytest.warns(TruncationWarning, match="cut to 64 tokens") as caught:
        model.rank(long, [long, "short"])
    assert caught[0].filename == __file__
    model.score([(long, "x")])
    assert model.n_truncated == 3
    with pytest.raises(TooLongError, match=r"pair 1 has .* the limit is 64"):
        model.score([("a", "b"), ("a", long)], truncate=False)
    with pytest.raises(InputError, match="max_length"):
        model.score([("a", "b")], max_length=10**6)
    assert np.isfinite(model.score([(long, long)], max_length=1)).all()


BAD_PAIRS: list[tuple[Any, str]] = [
    ("ab", "pairs is str"),
    (b"ab", "pairs is bytes"),
    (7, "pairs is int"),
    (["ab"], "pair 0 is str"),
    ([("a", "b"), ("a",)], "pair 1"),
    ([("a", "b", "c")], "pair 0"),
    ([("a", None)], "pair 0: text 1 is NoneType"),
    ([(b"a", "b")], "pair 0: text 0 is bytes"),
    ([None], "pair 0 is NoneType"),
    ([("a", "b\ud800")], "pair 0: text 1 holds a lone surrogate"),
]


@pytest.mark.parametrize(("pairs", "message"), BAD_PAIRS)
def test_bad_pairs_are_named(reranker: Reranker, pairs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reranker.score(pairs)


BAD_RANKS: list[tuple[Sequence[Any], dict[str, Any], str]] = [
    ((None, ["a"]), {}, "query is NoneType"),
    (("\udfff", ["a"]), {}, "query: .*surrogate"),
    (("q", "one string"), {}, "documents is one string"),
    (("q", ["a", 3]), {}, "text 1 is int"),
    (("q", ["\ud800"]), {}, "text 0 holds a lone surrogate"),
    (("q", None), {}, "NoneType"),
    (("q", ["a"]), {"top_k": 0}, "top_k is 0"),
    (("q", ["a"]), {"top_k": "3"}, "top_k is '3'"),
    (("q", ["a"]), {"prompt_name": "nothing"}, "no prompt 'nothing'"),
    (("q", ["a"]), {"prompt": "x", "prompt_name": "y"}, "not both"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), BAD_RANKS)
def test_bad_rankings_are_named(
    reranker: Reranker, arguments: Sequence[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        reranker.rank(*arguments, **options)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 3], "text 1 is int"),
        ([("a",)], "pair 0"),
        (b"a", "texts is bytes"),
        (None, "texts is NoneType"),
        (["\ud800"], "text 0 holds a lone surrogate"),
        ([("a", "\ud800")], "pair 0: text 1"),
    ],
)
def test_bad_texts_are_named(texts: Any, message: str) -> None:
    model = Classifier(gguf(folder("three labels, mean"), "f32"))
    with pytest.raises(InputError, match=message):
        model.classify(texts)


def test_rank_needs_one_label() -> None:
    with pytest.raises(InputError, match="this one has 3: use score"):
        Reranker(gguf(folder("three labels, mean"), "f32")).rank("q", ["a"])


def test_classify_texts_and_pairs_in_one_list() -> None:
    model = Classifier(gguf(folder("three labels, mean"), "f32"))
    items: list[str | tuple[str, str]] = ["a text", ("a premise", "a claim"), "another"]
    mixed = model.classify(items, top_k=None)
    for item, found in zip(items, mixed, strict=True):
        alone = model.classify([item], top_k=None)[0]
        assert [x["label"] for x in found] == [x["label"] for x in alone]
        np.testing.assert_allclose([x["score"] for x in found], [x["score"] for x in alone], rtol=1e-5)
    assert model.classify("a text") == model.classify(["a text"])[0]


# --- the wrong kind, and damaged files --------------------------------------------------------------------------------


def test_the_wrong_kind_says_which_class_to_use(tmp_path: Path) -> None:
    head = gguf(folder("logits of one label"), "f32")
    with pytest.raises(InputError, match="reranker or text classifier: use Reranker or Classifier, not Embedder"):
        Embedder(head)
    plain = convert(write_tiny(tmp_path / "plain"), tmp_path / "plain.gguf", show_progress=False)
    with pytest.raises(InputError, match="text embedder: use Embedder, not Reranker"):
        Reranker(plain)
    assert type(load(plain)) is Embedder
    assert type(load(head)) is Reranker
    with pytest.raises(ModernBertLlamaError):
        load(tmp_path / "nowhere.gguf")
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelFileError):
        load(tmp_path / "damaged.gguf")


@CUTS
def test_per_channel_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    source = folder("logits of one label")
    pairs = [(QUERY, text) for text in DOCUMENTS]
    blocks = Reranker(gguf(source, "q8_0")).score(pairs, raw=True)
    channels = Reranker(gguf(source, "q8_0"), per_channel=True).score(pairs, raw=True)
    assert logit_error(channels, blocks) < 0.2
    if "avx2" in cpu_flags():
        assert (channels != blocks).any()
    model = load(source, per_channel=True, cache_dir=tmp_path)
    assert isinstance(model, Reranker)
    np.testing.assert_array_equal(model.score(pairs, raw=True), channels)
    with pytest.raises(InputError, match="q8_0"):
        load(gguf(source, "f32"), per_channel=True)
    with pytest.raises(InputError, match="q8_0"):
        load(source, dtype="bf16", per_channel=True)


def test_a_folder_is_converted_once(tmp_path: Path) -> None:
    model = load(folder("two labels, default names"), dtype="q8_0", cache_dir=tmp_path)
    assert isinstance(model, Classifier)
    assert len(list(tmp_path.glob("*.gguf"))) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (keys.TASK, "sorcery", "expected one of"),
        (keys.SCORE_ACTIVATION, "Nonsense", "not known"),
        (keys.HEAD_ACTIVATION, "nonsense", "known are"),
    ],
)
def test_damaged_keys_are_named(tmp_path: Path, key: str, value: str, message: str) -> None:
    edited = rewrite(gguf(folder("logits of one label"), "f32"), tmp_path / "edited.gguf", added={key: value})
    with pytest.raises(ModelFileError, match=message):
        Reranker(edited)


@pytest.mark.parametrize(
    ("tensor", "edit", "message"),
    [
        ("cls.output.weight", lambda _: None, "has no head"),
        ("cls.norm.weight", lambda x: x * np.nan, "cls.norm.weight"),
        ("cls.weight", lambda x: x[:5], "cls.weight"),
        ("cls.output.bias", lambda _: np.zeros(7, np.float32), "cls.output"),
    ],
)
def test_damaged_heads_are_named(tmp_path: Path, tensor: str, edit: Any, message: str) -> None:
    source = gguf(folder("logits of one label"), "f32")
    with pytest.raises(ModelFileError, match=message):
        Reranker(rewrite(source, tmp_path / "edited.gguf", tensors={tensor: edit}))


@CUTS
def test_the_other_flavour(tmp_path: Path) -> None:
    for name in ("regression", "biases"):
        path = convert(folder(name), tmp_path / f"{name}.gguf", arch="modernbert", show_progress=False)
        np.testing.assert_allclose(
            Reranker(path).score(PAIRS, raw=True), golden(HEADS[name])["plain"][:, 0], rtol=1e-4, atol=1e-5
        )


@CUTS
def test_a_file_of_llama_cpps_converter_names_no_task(tmp_path: Path) -> None:
    ours = gguf(folder("regression"), "f32")
    dropped = [keys.TASK, keys.PROBLEM_TYPE, "pooling_type"]
    theirs = rewrite(ours, tmp_path / "theirs.gguf", metadata=dict.fromkeys(dropped))
    np.testing.assert_array_equal(Reranker(theirs).score(PAIRS, raw=True), Reranker(ours).score(PAIRS, raw=True))
    assert Embedder(theirs, pooling="mean").embed("a text").shape == (128,)


# --- folders that cannot be converted ---------------------------------------------------------------------------------


def classifier_folder(tmp_path: Path, **changes: Any) -> Path:
    random_ = np.random.default_rng(5)
    encoder = make_weights(CONFIG_5)
    head = {"head.dense.weight": (HIDDEN, HIDDEN), "head.norm.weight": (HIDDEN,), "classifier.weight": (2, HIDDEN)}
    weights = {f"model.{name}": values for name, values in encoder.items()}
    weights |= {name: random_.standard_normal(shape).astype(np.float32) for name, shape in head.items()}
    weights["classifier.bias"] = np.zeros(2, np.float32)
    return write_tiny(
        tmp_path, weights=weights, **{"architectures": ["ModernBertForSequenceClassification"], **changes}
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"classifier_activation": "gelu_10"}, UnsupportedError, "gelu_10"),
        ({"classifier_bias": True}, CheckpointError, "head.dense.bias.*there are biases"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, CheckpointError, "classifier.weight.*expected"),
        ({"id2label": {"0": "a", "2": "c"}}, CheckpointError, "id2label"),
        ({"id2label": {"0": "a", "1": 7}}, CheckpointError, "string"),
        ({"problem_type": "guessing"}, CheckpointError, "problem_type"),
        ({"classifier_pooling": "max"}, UnsupportedError, "classifier_pooling"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Bilinear"}}, UnsupportedError, "torch.nn.Bilinear"),
        ({"architectures": ["ModernBertModel"]}, UnsupportedError, "classifier.bias.*3 more"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convert(classifier_folder(tmp_path / "in", **changes), tmp_path / "out.gguf", show_progress=False)
    assert not (tmp_path / "out.gguf").exists()


def test_activation_of_older_releases_and_of_foreign_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = classifier_folder(tmp_path / "in", sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")
    assert load(source, cache_dir=tmp_path).info.score_activation == "Identity"
    edit_json(source / "config.json", sentence_transformers={"activation_fn": "my.Function"})
    with caplog.at_level("WARNING", "modernbert_llama"):
        assert load(source, cache_dir=tmp_path).info.score_activation == "Identity"
    assert "my.Function" in caplog.text


def test_modules_of_an_embedder_over_a_classifier_are_refused(tmp_path: Path) -> None:
    source = classifier_folder(tmp_path / "in")
    write_modules(source)
    with pytest.raises(UnsupportedError, match=r"classifier\.bias"):
        convert(source, tmp_path / "out.gguf", show_progress=False)


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.filterwarnings("default")
@ROW
def test_equals_the_reference_here_and_now(name: str) -> None:
    pytest.importorskip("sentence_transformers")
    from make_heads import build
    from modernbert_llama.reference import CrossReference

    row = HEADS[name]
    source = build(row, scratch() / "heads-live" / name.replace(" ", "_"))
    exact = CrossReference(source)
    others = {"float32": CrossReference(source, "float32"), "bfloat16": CrossReference(source, "bfloat16")}
    expected: dict[str, NDArray[Any]] = {}
    for encoding, options in encodings(row).items():
        expected[encoding] = exact.predict(PAIRS, raw=True, **options)
        expected[f"{encoding}-scores"] = exact.predict(PAIRS, **options)
        for precision, other in others.items():
            expected[f"{encoding}-{precision}"] = other.predict(PAIRS, raw=True, **options)
    for outtype in get_args(OutType):
        found = measure(row, outtype, source, expected)
        assert found["share"] <= 1, (outtype, found)


@pytest.mark.live
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["logits of one label", "three labels, mean", "modular, several labels"])
def test_thousands_of_random_pairs(name: str) -> None:
    pytest.importorskip("sentence_transformers")
    from make_heads import build
    from modernbert_llama.reference import CrossReference

    source = build(HEADS[name], scratch() / "heads-live" / f"random-{name.replace(' ', '_')}")
    generator = random.Random(name)
    words = ["river", "stone", "hill", "dog", "table", "rain", "7", "naïve", "あ", "[SEP]", ",", ".", "?", "😀"]

    def text() -> str:
        return " ".join(generator.choice(words) for _ in range(generator.randrange(40)))

    pairs = [(text(), text()) for _ in range(1000)]
    exact = CrossReference(source).predict(pairs, raw=True)
    ours = two_d(Reranker(gguf(source, "f32")).score(pairs, raw=True))
    assert logit_error(ours, exact) <= F32_BAR
    # the reference's order, but for scores that lie nearer together than float32 can tell
    ordered = exact[np.argsort(-ours[:, 0], kind="stable"), 0]
    assert np.diff(ordered).max() <= F32_BAR * np.abs(exact[:, 0]).max()
