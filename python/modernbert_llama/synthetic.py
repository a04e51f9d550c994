"""Checkpoint folders made from a seed: what the tests, the demo and the benchmarks use where others download a model.

The weights are *hot*: pre-activations, attention logits and biases are large enough that one wrong convention (tanh for
erf, a window off by one, another theta, gate and up swapped, a bias left out) moves the embedding by far more than
float32 rounding does, and yet the network is not chaotic: rounding errors grow slowly with depth.

Every weight is an exact function of the seed, whatever the machine: integers of numpy's frozen ``RandomState`` stream,
scaled in float32, with no libm call in between.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modernbert_llama.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SMALL_VOCAB_SIZE",
    "VOCAB_SIZES",
    "CheckpointSpec",
    "full_tokenizer_json",
    "small_tokenizer_json",
    "special_ids",
    "token_ids",
    "write_checkpoint",
]

Pooling = Literal["cls", "mean", "lasttoken"]
Vocab = Literal["small", "full"]
StoredType = Literal["F32", "F16", "BF16"]

SMALL_VOCAB_SIZE = 1024
VOCAB_SIZES: dict[str, int] = {"small": SMALL_VOCAB_SIZE, "full": 50368}
_BASE_SIZES: dict[str, int] = {"small": 986, "full": 50254}  # ids below: the byte-level BPE; above: added tokens
_LONGEST_SPACES = 24
_SPECIAL_NAMES = ("unk", "cls", "sep", "pad", "mask")


@dataclass(frozen=True)
class CheckpointSpec:
    """The shape of a checkpoint and of the folder around it.

    ``layer_types`` (``"full_attention"`` or ``"sliding_attention"`` a layer) overrides ``global_every``, and needs
    ``config_format`` 5. ``global_scaling`` and ``local_scaling`` are RoPE parameters as transformers writes them, but
    for the theta; ``config_format`` 4 has one for both. ``window`` is ``local_attention``, the full width. ``pooling``
    None writes no files of sentence-transformers. ``config_format`` is the transformers generation whose
    ``config.json`` (and spelling of the sentence-transformers modules) is written. ``prefix`` begins every tensor name.
    ``stored`` is the element type in the safetensors file, ``shards`` the number of files. ``gain`` scales what each
    block adds to the residual stream, ``logit_gain`` the queries and keys.
    """

    name: str
    n_layer: int
    hidden: int
    intermediate: int
    n_head: int
    global_theta: float = 160000.0
    local_theta: float = 10000.0
    global_scaling: Mapping[str, Any] | None = None
    local_scaling: Mapping[str, Any] | None = None
    window: int = 128
    global_every: int = 3
    layer_types: tuple[str, ...] | None = None
    activation: str = "gelu"
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    norm_eps: float = 1e-5
    layer_norm_eps: float | None = 1e-5
    max_positions: int = 8192
    config_format: Literal[4, 5] = 5
    pooling: Pooling | None = "cls"
    classifier_pooling: Literal["cls", "mean"] = "cls"
    normalize: bool = True
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt_name: str | None = None
    vocab: Vocab = "small"
    prefix: Literal["", "model."] = ""
    stored: StoredType = "F32"
    shards: int = 1
    seed: int = 0
    gain: float = 0.25
    logit_gain: float = 1.0

    @property
    def layers(self) -> tuple[str, ...]:
        """``"full_attention"`` or ``"sliding_attention"`` for each of the ``n_layer`` layers."""
        if self.layer_types is not None:
            return self.layer_types
        return tuple("sliding_attention" if i % self.global_every else "full_attention" for i in range(self.n_layer))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        return VOCAB_SIZES[self.vocab]


def special_ids(vocab: Vocab = "small") -> dict[str, int]:
    """Ids of the special tokens: keys ``unk``, ``cls``, ``sep``, ``pad``, ``mask``."""
    first = _BASE_SIZES[vocab] + _LONGEST_SPACES - 1 + 3  # the runs of spaces, then three named tokens
    return {name: first + i for i, name in enumerate(_SPECIAL_NAMES)}


def token_ids(spec: CheckpointSpec, length: int, seed: int = 0) -> list[int]:
    """A text of ``length`` tokens as ids, from the seeds: [CLS], ordinary tokens, [SEP]; a single one is [CLS]."""
    if length < 1:
        raise InputError(f"length must be at least 1, not {length}")
    ids = special_ids(spec.vocab)
    middle = max(length - 2, 0)
    stream = _stream(spec.seed, f"ids-{seed}-{length}")
    words = 2 + np.frombuffer(stream.bytes(4 * middle), "<u4") % (_BASE_SIZES[spec.vocab] - 2)
    return [ids["cls"], *words.tolist(), ids["sep"]][:length]


def write_checkpoint(folder: Path | str, spec: CheckpointSpec, tokenizer_json: str | None = None) -> Path:
    """Write ``spec`` as a folder that transformers and sentence-transformers load, and return the folder's path.

    ``tokenizer_json`` is the whole text of the tokenizer; None means :func:`small_tokenizer_json` for the small
    vocabulary, and no tokenizer files at all for the full one (only :meth:`Embedder.embed_tokens` needs none).
    """
    if spec.layer_types is not None and (len(spec.layer_types) != spec.n_layer or spec.config_format == 4):
        raise InputError("layer_types needs one entry a layer, and config_format 5")
    if spec.config_format == 4 and spec.global_scaling != spec.local_scaling:
        raise InputError("config_format 4 has one RoPE scaling for all layers")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer_json is None and spec.vocab == "small":
        tokenizer_json = small_tokenizer_json()
    _write_json(folder / "config.json", _config(spec))
    _write_weights(folder, spec)
    if tokenizer_json is not None:
        _write_tokenizer(folder, spec, tokenizer_json)
    if spec.pooling is not None:
        _write_modules(folder, spec, spec.pooling)
    return folder


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    """What to draw: normal values around ``mean``, deviating by ``std[0]`` in ``split`` rows, then ``std[1]``."""

    name: str
    shape: tuple[int, ...]
    std: tuple[float, float]
    mean: float = 0.0
    split: int = 0

    @property
    def count(self) -> int:
        return int(np.prod(self.shape))


def _stream(seed: int, name: str) -> np.random.RandomState:
    return np.random.RandomState([seed, zlib.crc32(name.encode())])


def _values(seed: int, tensor: _Tensor) -> NDArray[np.float32]:
    """The tensor in float32: the sum of four 16-bit integers each, so that every machine makes the same bits."""
    words = np.frombuffer(_stream(seed, tensor.name).bytes(8 * tensor.count), "<u2").reshape(-1, 4)
    centred = words.sum(axis=1, dtype=np.int32) - np.int32(2 * 65535)
    values = centred.astype(np.float32).reshape(tensor.shape)
    for rows, std in ((slice(0, tensor.split), tensor.std[0]), (slice(tensor.split, None), tensor.std[1])):
        values[rows] *= np.float32(std * 3**0.5 / 65536)  # the sum of four uniform words deviates by 65536 / sqrt(3)
    values += np.float32(tensor.mean)
    return np.asarray(values, np.float32)


def _tensors(spec: CheckpointSpec) -> Iterator[_Tensor]:
    """The tensors of the bare model in checkpoint order, in torch's (out, in) layout."""
    h, ff = spec.hidden, spec.intermediate

    def norm(name: str) -> Iterator[_Tensor]:
        yield _Tensor(f"{name}.weight", (h,), (0.25, 0.25), 1.0)
        if spec.norm_bias:
            yield _Tensor(f"{name}.bias", (h,), (0.2, 0.2))

    def linear(name: str, shape: tuple[int, int], gain: float, bias: bool, first: float = 1.0) -> Iterator[_Tensor]:
        """``first`` multiplies the queries and keys, which are the first 2 * hidden rows of Wqkv."""
        split = 2 * h if first != 1.0 else 0
        std = gain * shape[1] ** -0.5
        yield _Tensor(f"{name}.weight", shape, (first * std, std), split=split)
        if bias:
            yield _Tensor(f"{name}.bias", shape[:1], (0.3 * gain * first, 0.3 * gain), split=split)

    yield _Tensor("embeddings.tok_embeddings.weight", (spec.vocab_size, h), (1.0, 1.0))
    yield from norm("embeddings.norm")
    for i in range(spec.n_layer):
        block = f"layers.{i}"
        if i:
            yield from norm(f"{block}.attn_norm")
        yield from linear(f"{block}.attn.Wqkv", (3 * h, h), 1.0, spec.attention_bias, spec.logit_gain)
        yield from linear(f"{block}.attn.Wo", (h, h), spec.gain, spec.attention_bias)
        yield from norm(f"{block}.mlp_norm")
        yield from linear(f"{block}.mlp.Wi", (2 * ff, h), 1.0, spec.mlp_bias)
        yield from linear(f"{block}.mlp.Wo", (h, ff), spec.gain, spec.mlp_bias)
    yield from norm("final_norm")


_STORED_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _bytes(value: NDArray[np.float32], stored: StoredType) -> bytes:
    if stored == "F16":
        return value.astype("<f2").tobytes()
    if stored == "BF16":  # numpy has no such type: round to nearest, ties to even, on the bits
        bits = value.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return value.astype("<f4", copy=False).tobytes()


def _write_weights(folder: Path, spec: CheckpointSpec) -> None:
    tensors = list(_tensors(spec))
    if spec.shards == 1:
        _write_safetensors(folder / "model.safetensors", spec, tensors)
        return
    weight_map: dict[str, str] = {}
    for shard in range(spec.shards):
        file = f"model-{shard + 1:05d}-of-{spec.shards:05d}.safetensors"
        part = tensors[shard * len(tensors) // spec.shards : (shard + 1) * len(tensors) // spec.shards]
        _write_safetensors(folder / file, spec, part)
        weight_map |= {spec.prefix + tensor.name: file for tensor in part}
    size = sum(tensor.count for tensor in tensors) * (4 if spec.stored == "F32" else 2)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_safetensors(path: Path, spec: CheckpointSpec, tensors: list[_Tensor]) -> None:
    """Write one file tensor by tensor: a length, a JSON header, the data. The library's writer needs all in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.count * (4 if spec.stored == "F32" else 2)
        header[spec.prefix + tensor.name] = {
            "dtype": spec.stored,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(_bytes(_values(spec.seed, tensor), spec.stored))


# --- the files around them --------------------------------------------------------------------------------------------


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(spec: CheckpointSpec) -> dict[str, Any]:
    ids = special_ids(spec.vocab)
    dtype = _STORED_NAMES[spec.stored]
    config: dict[str, Any] = {
        "architectures": ["ModernBertModel"],
        "attention_bias": spec.attention_bias,
        "attention_dropout": 0.0,
        "bos_token_id": ids["cls"],
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": spec.classifier_pooling,
        "cls_token_id": ids["cls"],
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "eos_token_id": ids["sep"],
        "hidden_activation": spec.activation,
        "hidden_size": spec.hidden,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate,
        "local_attention": spec.window,
        "max_position_embeddings": spec.max_positions,
        "mlp_bias": spec.mlp_bias,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": spec.norm_bias,
        "norm_eps": spec.norm_eps,
        "num_attention_heads": spec.n_head,
        "num_hidden_layers": spec.n_layer,
        "pad_token_id": ids["pad"],
        "sep_token_id": ids["sep"],
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "tie_word_embeddings": True,
        "vocab_size": spec.vocab_size,
    }
    if spec.config_format == 4:
        config |= {
            "global_attn_every_n_layers": spec.global_every,
            "global_rope_theta": spec.global_theta,
            "gradient_checkpointing": False,
            "local_rope_theta": spec.local_theta,
            "position_embedding_type": "absolute",
            "torch_dtype": dtype,
            "transformers_version": "4.48.0",
        }
        if spec.global_scaling is not None:
            config["rope_scaling"] = dict(spec.global_scaling)
        if spec.layer_norm_eps is not None:
            config["layer_norm_eps"] = spec.layer_norm_eps
    else:
        config |= {
            "dtype": dtype,
            "layer_types": list(spec.layers),
            "rope_parameters": {
                "full_attention": {"rope_theta": spec.global_theta, "rope_type": "default"}
                | dict(spec.global_scaling or {}),
                "sliding_attention": {"rope_theta": spec.local_theta, "rope_type": "default"}
                | dict(spec.local_scaling or {}),
            },
            "transformers_version": "5.23.0",
        }
    return config


def _write_tokenizer(folder: Path, spec: CheckpointSpec, tokenizer_json: str) -> None:
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    added: list[dict[str, Any]] = json.loads(tokenizer_json)["added_tokens"]
    names = {f"{name}_token": f"[{name.upper()}]" for name in _SPECIAL_NAMES}
    config: dict[str, Any] = dict(names)
    config |= {
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": spec.max_positions,
    }
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    if spec.config_format == 4:
        config["added_tokens_decoder"] = {str(t["id"]): {key: t[key] for key in keys} for t in added}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        config |= {"backend": "tokenizers", "tokenizer_class": "TokenizersBackend"}
    _write_json(folder / "tokenizer_config.json", config)
    by_content = {t["content"]: t for t in added}
    specials = {key: {k: by_content[content][k] for k in keys if k != "special"} for key, content in names.items()}
    _write_json(folder / "special_tokens_map.json", specials)


def _write_modules(folder: Path, spec: CheckpointSpec, pooling: Pooling) -> None:
    if spec.config_format == 4:
        types: dict[str, str] = {
            kind: f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")
        }
        flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        pool: dict[str, Any] = {"word_embedding_dimension": spec.hidden}
        pool |= {f"pooling_mode_{flag}": flag.startswith(pooling) and "sqrt" not in flag for flag in flags}
        versions = {"sentence_transformers": "3.4.1", "transformers": "4.48.0", "pytorch": "2.5.1"}
    else:
        package = "sentence_transformers"
        types = {
            "Transformer": f"{package}.base.modules.transformer.Transformer",
            "Pooling": f"{package}.sentence_transformer.modules.pooling.Pooling",
            "Normalize": f"{package}.base.modules.normalize.Normalize",
        }
        pool = {"embedding_dimension": spec.hidden, "pooling_mode": pooling}
        versions = {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0"}
    pool["include_prompt"] = True
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * spec.normalize
    listing = [{"idx": i, "name": str(i), "path": p, "type": types[kind]} for i, (p, kind) in enumerate(modules)]
    _write_json(folder / "modules.json", listing)
    _write_json(folder / "1_Pooling" / "config.json", pool)
    if spec.normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": spec.max_positions, "do_lower_case": False})
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": versions,
            "model_type": "SentenceTransformer",
            "prompts": dict(spec.prompts),
            "default_prompt_name": spec.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
    )


# --- tokenizers -------------------------------------------------------------------------------------------------------

_TRAINING_TEXT = """
A tokenizer needs a text to learn from, and this one learns from a few plain paragraphs. The river rises in the hills
and runs through the valley to the sea; on its way it passes mills, bridges, farms and small towns where the market is
held every week. In the spring the water is high and cold, and in the summer the children swim where the current is
slow. The people of the towns have always known that the river gives and that the river takes, and they build their
houses above it.

How does a language model read a sentence? It cuts the text into pieces, looks up a vector for every piece, and lets
the vectors exchange information, layer after layer, until each of them knows something about all the others. The
model that embeds a sentence keeps one vector at the end, and the distance between two such vectors says how near the
meanings are. Searching is then a matter of comparing numbers: the question is embedded, the documents were embedded
before, and the best documents are the ones whose vectors point in the same direction as the vector of the question.

In 2024, after 12 months of work, the group published 3 versions of the program: 1.0, 1.1 and 2.0. Each version was
tested on 10, 100 and 1000 documents; the results were the same within 0.5 percent. "That is good enough," they said,
"isn't it?" We don't think so: we'd like to know where the difference comes from, and we'll look until we've found it.
They're right.

def compare(first, second):
    # returns the largest difference between the two lists of numbers
    result = 0.0
    for a, b in zip(first, second):
        result = max(result, abs(a - b))
    return result

for (int i = 0; i < n; i++) { sum += values[i] * weights[i]; if (sum > limit) { return false; } }

Der Fluss entspringt in den Bergen und fliesst durch das Tal bis zum Meer. La rivière naît dans les collines et
traverse la vallée jusqu'à la mer. El río nace en las montañas y corre por el valle hasta el mar. Où êtes-vous allés
cet été? Über die Brücke, naïve Gäste, żółw, smörgåsbord, Ελληνικά, Русский язык, 日本語の文章,
中文句子, 한국어, עברית, العربية.

The weather today is sunny and warm, with a light wind from the west. Tomorrow it will rain in the morning, and the
afternoon will be cloudy. The cat sleeps on the chair, the dog sleeps under the table, and the bird sings in the
garden. A man is playing a guitar on the street; a woman is reading a newspaper in the park; two children are eating
bread and cheese. The train to the city leaves at seven o'clock and arrives before nine. Please send the report to the
office before the end of the month, and keep a copy of the letter. The company sold more machines this year than in
any year before.
"""


def small_tokenizer_json() -> str:
    """A ``tokenizer.json`` of the standard ModernBERT form with 1024 tokens, the same text on every machine."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = _byte_characters()
    merges, tokens = _train_bpe(_TRAINING_TEXT, ByteLevel(add_prefix_space=False, use_regex=True), alphabet)
    vocab = {token: i for i, token in enumerate(["|||IP_ADDRESS|||", "<|padding|>", *tokens])}
    return _tokenizer_json("small", vocab, merges)


def full_tokenizer_json(vocab_gguf: Path | str) -> str:
    """The 50368-token form, from llama.cpp's ``ggml-vocab-gpt-neox.gguf``: ids 2..50253 and merges are GPT-NeoX's."""
    from gguf import GGUFReader

    reader = GGUFReader(str(vocab_gguf))
    fields = {}
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        field = reader.get_field(key)
        if field is None:
            raise InputError(f"{vocab_gguf}: no {key}")
        fields[key] = field.contents()
    tokens = fields["tokenizer.ggml.tokens"][: _BASE_SIZES["full"]]
    vocab = {token: i for i, token in enumerate(["|||IP_ADDRESS|||", *tokens[1:]])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    return _tokenizer_json("full", vocab, [(left, right) for left, right in merges])


def _byte_characters() -> list[str]:
    """The characters that byte-level BPE writes for the bytes 0..255: printable Latin-1 as itself, the rest shifted."""
    shifted = iter(range(256, 512))
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return [chr(b) if b in printable else chr(next(shifted)) for b in range(256)]


def _train_bpe(text: str, splitter: Any, alphabet: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Plain BPE training: the commonest pair first, ties by spelling; no library's version can change the result."""
    words = Counter(word for word, _ in splitter.pre_tokenize_str(text))
    pieces = {word: list(word) for word in words}
    merges: list[tuple[str, str]] = []
    tokens = sorted(alphabet)
    while len(tokens) < _BASE_SIZES["small"] - 2:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        known = set(tokens)
        best = min((pair for pair in pairs if pair[0] + pair[1] not in known), key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append(best[0] + best[1])
        for parts in pieces.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges, tokens


def _tokenizer_json(kind: Vocab, vocab: dict[str, int], merges: list[tuple[str, str]]) -> str:
    def added(token: int, content: str, special: bool = False, lstrip: bool = False) -> dict[str, Any]:
        return {
            "id": token,
            "content": content,
            "single_word": False,
            "lstrip": lstrip,
            "rstrip": False,
            "normalized": not special,
            "special": special,
        }

    after = _BASE_SIZES[kind]
    ids = special_ids(kind)
    tokens = [added(0, "|||IP_ADDRESS|||"), added(1, "<|padding|>", special=True)]
    tokens += [added(after + i, " " * (_LONGEST_SPACES - i)) for i in range(_LONGEST_SPACES - 1)]
    tokens += [added(ids["unk"] - 3, "|||EMAIL_ADDRESS|||"), added(ids["unk"] - 2, "|||PHONE_NUMBER|||")]
    tokens += [added(ids["unk"] - 1, "<|endoftext|>", special=True)]
    tokens += [added(ids[name], f"[{name.upper()}]", True, name == "mask") for name in _SPECIAL_NAMES]
    unused = range(ids["mask"] + 1, VOCAB_SIZES[kind])
    tokens += [added(token, f"[unused{i}]") for i, token in enumerate(unused)]

    def part(name: str, type_id: int) -> dict[str, Any]:
        kind = "Sequence" if name in "AB" else "SpecialToken"
        return {kind: {"id": name, "type_id": type_id}}

    single = [part("[CLS]", 0), part("A", 0), part("[SEP]", 0)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, part("B", 1), part("[SEP]", 1)],
            "special_tokens": {
                name: {"id": name, "ids": [ids[name[1:-1].lower()]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(tokenizer, ensure_ascii=False)
