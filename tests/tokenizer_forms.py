"""Small tokenizers of every form of the family, trained here by the tokenizers and sentencepiece libraries from a seed
and saved by transformers: what stands in for the hub's own.

``save_form(name, folder)`` writes the tokenizer files of a checkpoint and returns how many ids there are.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modernbert_llama.synthetic import small_tokenizer_json
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer

__all__ = ["FORMS", "Form", "corpus", "random_texts", "save_form"]

# the split of GPT-4o's tokenizer, which granite-embedding-97m-multilingual-r2 uses
GPT4O_REGEX: Final = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
LLAMA3_REGEX: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BRACKETS: Final = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
_ANGLES: Final = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_GEMMA: Final = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "cls_token": "<bos>",
    "sep_token": "<eos>",
}

_BASES: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "abcdefghijklmnopqrstuvwxyz",
    "àâäçéèêëîïôöùûüñßåøæœłżźćńśąę",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψωάέήίόύώ",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "ひらがなのぶんしょうとかたかなです",
    "日本語中文漢字学校東京大阪時間人年月国会社",
    "가나다라마바사아자차카타파하한국어문장",
    "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวสหอฮ",
)


@functools.cache
def corpus() -> tuple[str, ...]:
    """Twelve hundred lines of invented words in twelve scripts: Zipf-like, from a seed."""
    rng = random.Random(20261124)
    words = [["".join(rng.choices(base, k=rng.randint(1, 7))) for _ in range(150)] for base in _BASES for _ in range(1)]
    lines = []
    for _ in range(1200):
        stock = rng.choice(words)
        line = [stock[min(int(rng.paretovariate(0.9)) - 1, len(stock) - 1)] for _ in range(rng.randint(3, 14))]
        if rng.random() < 0.3:
            line.insert(rng.randrange(len(line)), str(rng.randint(0, 99999)))
        if rng.random() < 0.5:
            line[0] = line[0].capitalize()
        text = " ".join(line) + rng.choice(".!?;,:")
        lines.append(text if rng.random() < 0.8 else f"\"{text}\" don't (we'll) {rng.choice(('1.5e-3', 'a_b', '--x'))}")
    return tuple(lines)


# --- fuzz texts -------------------------------------------------------------------------------------------------------

_SNIPPETS: Final = (
    "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "[Q]", "[D] ", "[Q] ", "<s>", "</s>", "<mask>", "<unk>", "<pad>",
    "<bos>", "<eos>", "<0x41>", "[unused3]", "|||EMAIL_ADDRESS|||", "<|endoftext|>", "\u2581", "\u2581\u2581",
    "'s", "'LL", "'\u017f", "don't", "\r\n", "\n\n\n", "\t\t", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U0001f44d\U0001f3fd", "e\u0301", "a\u030a\u0323", "\u1100\u1161\u11a8",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\u0130", "\u1e9e", "\ufb01", "\u212b", "\u2126", "\u00bd", "\u0664",
    "\u3000", "\u00a0", "\u2028", "\u200b", "\ufeff", "\ufffd", "\x00", "\x85", "\x7f", "\u0344", "\u0958", "\u0f77",
    "\uff21\uff22", "\uff76\uff9e", "\u0915\u094d\u0937\u093f", "\u0e01\u0e33", "\u05e9\u05bc\u05c1", "\u202e",
    "1234567",
)  # fmt: skip
_RANGES: Final = (
    (0x20, 0x7E), (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF),
    (0x900, 0xDFF), (0xE00, 0xEFF), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x0, 0x1F),
    (0x0, 0xD7FF), (0xE000, 0x10FFFF),
)  # fmt: skip


def random_texts(count: int, seed: int = 0) -> list[str]:
    """``count`` strings of every kind that tokenizers get wrong, all valid Unicode, the same on every machine."""
    rng = random.Random(f"texts-{seed}")
    lines = corpus()

    def piece() -> str:
        kind = rng.random()
        if kind < 0.30:
            return rng.choice(_SNIPPETS)
        if kind < 0.50:
            return rng.choice(rng.choice(lines).split(" "))
        if kind < 0.62:
            return rng.choice((" ", " ", "  ", "   ", "\n", "\t", " \n", "\u3000")) * rng.choice((1, 1, 1, 2, 3, 25))
        if kind < 0.66:
            return rng.choice(("a", "\u00e9", "\u65e5", "0", "=", "\u0301", "\U0001f600", " ", "-")) * rng.randint(
                5, 120
            )
        low, high = rng.choice(_RANGES)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))

    texts = []
    for _ in range(count):
        if rng.random() < 0.15:
            texts.append(rng.choice(lines))
        else:
            texts.append("".join(piece() for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8, 13)))))
    return texts


# --- the forms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """``build`` gives a tokenizer and its named tokens; ``like`` names the public models of this form.

    ``tokenizer_class`` is what the hub's tokenizer_config.json says. ``ggml`` is the vocabulary that belongs into the
    GGUF as (model, pre-tokenizer); None where stock llama.cpp has none. ``only_model`` leaves out tokenizer.json: the
    folder then has a SentencePiece tokenizer.model alone.
    """

    like: str
    build: Callable[[], tuple[Tokenizer, dict[str, str]]]
    ggml: tuple[str, str] | None
    tokenizer_class: str = "PreTrainedTokenizerFast"
    only_model: Callable[[], bytes] | None = None


def _template(tokenizer: Tokenizer, single: str, pair: str, names: tuple[str, ...]) -> None:
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _special(*contents: str) -> list[AddedToken]:
    return [AddedToken(c, special=True, normalized=False, lstrip=c in ("[MASK]", "<mask>")) for c in contents]


def _standard() -> tuple[Tokenizer, dict[str, str]]:
    return Tokenizer.from_str(small_tokenizer_json()), _BRACKETS


def _markers() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer, named = _standard()
    tokenizer.add_tokens([AddedToken("[Q] ", normalized=False), AddedToken("[D] ", normalized=False)])
    return tokenizer, named


def _byte_level(regex: str, *, ignore_merges: bool, normalizer: Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=_special(*_BRACKETS.values()),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]"))
    return tokenizer


def _gpt4o() -> tuple[Tokenizer, dict[str, str]]:
    return _byte_level(GPT4O_REGEX, ignore_merges=True), _BRACKETS


def _llama3() -> tuple[Tokenizer, dict[str, str]]:
    return _byte_level(LLAMA3_REGEX, ignore_merges=False, normalizer=normalizers.NFC()), _BRACKETS


def _folded() -> tuple[Tokenizer, dict[str, str]]:
    steps = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFD(), normalizers.StripAccents()]
    return _byte_level(GPT4O_REGEX, ignore_merges=False, normalizer=normalizers.Sequence(steps)), _BRACKETS


def _gemma_bpe(*, split: bool, pair: str) -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    if split:  # nothing is left to split: the normalizer has replaced every space
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = _special("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    # a token for each byte, as an added token that is taken back below: training has no other way to place them
    alphabet = sorted({char for line in corpus() for char in line.replace(" ", "\u2581")} | {"\n"})
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        show_progress=False,
        initial_alphabet=alphabet,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    # words: a BPE over whole lines would learn whole lines
    words = [word for line in corpus() for word in line.replace(" ", " \u2581").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(value))
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 6)])
    tokenizer.add_tokens([AddedToken("\u2581" * n, normalized=False) for n in range(2, 6)])
    _template(tokenizer, "<bos> $A <eos>", pair, ("<bos>", "<eos>"))
    return tokenizer, _GEMMA


def _mmbert() -> tuple[Tokenizer, dict[str, str]]:
    return _gemma_bpe(split=True, pair="<bos> $A <eos> $B:1 <eos>:1")


def _granite_311m() -> tuple[Tokenizer, dict[str, str]]:
    return _gemma_bpe(split=False, pair="<bos> $A <eos> <bos> $B:1 <eos>:1")


@functools.cache
def _spm(kind: str, normalization: str) -> bytes:
    """A SentencePiece model with byte fallback."""
    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=buffer,
        model_type=kind,
        vocab_size=1100,
        character_coverage=0.995,
        byte_fallback=True,
        normalization_rule_name=normalization,
        add_dummy_prefix=normalization != "identity",
        remove_extra_whitespaces=normalization != "identity",
        user_defined_symbols=["<mask>", "<cls>"],
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return buffer.getvalue()


def _pieces(model: bytes) -> tuple[list[tuple[str, float]], bytes]:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    return [(piece.piece, piece.score) for piece in proto.pieces], proto.normalizer_spec.precompiled_charsmap


def _ruri() -> tuple[Tokenizer, dict[str, str]]:
    """As transformers converts LlamaTokenizer-like unigram models: no dummy prefix, bytes for what is unknown."""
    pieces, _ = _pieces(_spm("unigram", "identity"))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_special("<unk>", "<s>", "</s>", "<pad>", "<mask>"))
    tokenizer.add_tokens([AddedToken("<cls>", normalized=False)])
    _template(tokenizer, "<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1", ("<s>", "</s>"))
    return tokenizer, _ANGLES


def _xlm_roberta() -> tuple[Tokenizer, dict[str, str]]:
    """As transformers converts XLM-RoBERTa's: precompiled normaliser, Metaspace, ``<s> A </s></s> B </s>``."""
    pieces, charsmap = _pieces(_spm("unigram", "nmt_nfkc"))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "\u2581"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.add_special_tokens(_special("<unk>", "<s>", "</s>", "<pad>", "<mask>"))
    _template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ("<s>", "</s>"))
    return tokenizer, _ANGLES


def _llama_bpe() -> tuple[Tokenizer, dict[str, str]]:
    """SentencePiece BPE as transformers 4 converts Llama's: a space before every text, merges by score."""
    pieces, _ = _pieces(_spm("bpe", "nmt_nfkc"))
    vocab = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces[4 + 2 + 256 :]:
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found = sorted(((vocab[a], vocab[b]), a, b) for a, b in halves if a in vocab and b in vocab)
        merges += [(score, a, b) for _, a, b in found]
    merges.sort(key=lambda item: -item[0])
    tokenizer = Tokenizer(
        models.BPE(vocab, [(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_special("<unk>", "<s>", "</s>", "<pad>", "<mask>"))
    _template(tokenizer, "<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1", ("<s>", "</s>"))
    return tokenizer, _ANGLES


def _wordpiece() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=1500, show_progress=False, special_tokens=_special(*_BRACKETS.values())
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]"))
    return tokenizer, _BRACKETS


def _word_level() -> tuple[Tokenizer, dict[str, str]]:
    """A form that llama.cpp has no vocabulary for, and a template of two tokens on either side."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=600, show_progress=False, special_tokens=_special(*_BRACKETS.values())
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    _template(tokenizer, "[CLS] [UNK] $A [SEP] [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]", ("[CLS]", "[SEP]", "[UNK]"))
    return tokenizer, _BRACKETS


FORMS: Final = {
    "standard": Form("ModernBERT, granite-embedding-english-r2, gte, nomic, Ettin", _standard, ("gpt2", "modern-bert")),
    "markers": Form("GTE-ModernColBERT, LateOn, mxbai-edge-colbert", _markers, ("gpt2", "modern-bert")),
    "gpt-4o": Form("granite-embedding-97m-multilingual-r2", _gpt4o, ("gpt2", "granite-embed-multi-97m")),
    "llama-3": Form("the split of Llama 3", _llama3, ("gpt2", "dbrx")),
    "mmbert": Form("mmBERT", _mmbert, ("gpt2", "sarvam-moe"), "GemmaTokenizerFast"),
    "granite-311m": Form(
        "granite-embedding-311m-multilingual-r2", _granite_311m, ("gpt2", "sarvam-moe"), "GemmaTokenizerFast"
    ),
    "ruri": Form("ruri-v3, modernbert-ja, japanese-reranker-v2", _ruri, ("t5", "default"), "LlamaTokenizerFast"),
    "ruri-model": Form(
        "ruri-v3, modernbert-ja from tokenizer.model",
        _ruri,
        ("t5", "default"),
        "LlamaTokenizer",
        only_model=lambda: _spm("unigram", "identity"),
    ),
    "charsmap-model": Form(
        "a unigram tokenizer.model that normalises",
        _ruri,
        ("t5", "default"),
        "LlamaTokenizer",
        only_model=lambda: _spm("unigram", "nmt_nfkc"),
    ),
    "bpe-model": Form(
        "a BPE tokenizer.model",
        _llama_bpe,
        ("gpt2", "sarvam-moe"),
        "LlamaTokenizer",
        only_model=lambda: _spm("bpe", "identity"),
    ),
    "xlm-roberta": Form("XLM-RoBERTa's tokenizer", _xlm_roberta, ("t5", "default"), "XLMRobertaTokenizerFast"),
    "llama": Form("Llama's tokenizer", _llama_bpe, ("llama", "default"), "LlamaTokenizerFast"),
    "wordpiece": Form("BERT's tokenizer", _wordpiece, ("bert", "default"), "BertTokenizerFast"),
    "folded": Form("NFKC, lower case, no accents", _folded, None),
    "word-level": Form("words, and a template of four tokens", _word_level, None),
}


@functools.cache
def _built(name: str) -> tuple[str, dict[str, str], bytes | None]:
    form = FORMS[name]
    tokenizer, named = form.build()
    return tokenizer.to_str(), named, form.only_model() if form.only_model is not None else None


def save_form(name: str, folder: Path, *, model_max_length: int = 512, generation: int = 5) -> int:
    """Writes the tokenizer of a form as transformers saves it, and returns the number of ids.

    ``generation`` 4 gives the files of transformers 4: the hub's tokenizer_class, added_tokens_decoder,
    special_tokens_map.json.
    """
    from transformers import PreTrainedTokenizerFast

    text, named, model = _built(name)
    form = FORMS[name]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )
    tokenizer.save_pretrained(folder)
    if generation == 4 or model is not None:
        _as_generation_4(folder, form.tokenizer_class, named)
    if model is not None:
        _leave_only_model(folder, model)
    return len(tokenizer)


def _leave_only_model(folder: Path, model: bytes) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model)
    # transformers 5 cannot read a unigram tokenizer.model where tokenizer_config.json has added_tokens_decoder
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["added_tokens_decoder"]
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _as_generation_4(folder: Path, tokenizer_class: str, named: dict[str, str]) -> None:
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config.pop("backend", None)
    config |= {
        "tokenizer_class": tokenizer_class,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(token["id"]): {key: token[key] for key in keys} for token in added},
        # what transformers 5 leaves out where there is a tokenizer.json
        "add_bos_token": True,
        "add_eos_token": True,
    }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    by_content = {token["content"]: token for token in added}
    specials = {k: {x: by_content[v][x] for x in keys if x != "special"} for k, v in named.items() if v in by_content}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=2), encoding="utf-8")


def charsmap_base64(model: bytes) -> str:
    """The normaliser of a SentencePiece model, as a tokenizer.json holds it."""
    return base64.b64encode(_pieces(model)[1]).decode()
