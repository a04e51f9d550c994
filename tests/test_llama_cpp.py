"""The real llama-cpp-python on the patched libraries: embeddings, text, its own tests, LangChain, LlamaIndex.

Each program runs in a process of its own, with llama-cpp-python as its own build makes it on PYTHONPATH.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp_suite
import numpy as np
import pytest
import upstream_builds
from models import embedder, gguf, scratch
from modernbert_llama import patchset, upstream
from modernbert_llama.convert import OutType
from modernbert_llama.embedder import Embedder
from modernbert_llama.keys import Arch
from modernbert_llama.llama_compat.libraries import read_build
from modernbert_llama.synthetic import token_ids
from numpy.typing import NDArray
from specs import POOLINGS, SPECS, cosine_distance, golden_arrays, relative_error
from test_parity_golden import BATCH_BAR, F16_BAR, F32_FACTOR, Q8_0_BAR, own_pooling
from text_models import N_VOCAB, write_lfm2, write_llama, write_mamba
from upstream_builds import cpu_flags

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
VERSION = read_build().llama_cpp_python
# what the release itself cannot do, on its own libraries either
OLD = VERSION == "0.3.16"
one_text_a_call = pytest.mark.skipif(OLD, reason="0.3.16 cannot decode several texts in a batch, with any BERT")


@functools.cache
def stock() -> Path:
    if not VERSION:
        pytest.skip("built from a tree of one's own: no release of llama-cpp-python belongs to it")
    return upstream_builds.stock(f"llama-cpp-python-{VERSION}")


@functools.cache
def integrations() -> Path:
    """The dependency group of pyproject.toml, and nothing of llama-cpp-python itself."""
    tomllib = pytest.importorskip("tomllib")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    return upstream_builds.installed("integrations", *groups["integrations"])


@functools.cache
def lines(path: str) -> dict[str, str]:
    """What ``python -m modernbert_llama.llama_compat`` prints."""
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "modernbert_llama.llama_compat"]
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def variables(patched: bool, *more: Path) -> dict[str, str]:
    """The environment of a program with llama-cpp-python and ``more`` on its path."""
    path = os.pathsep.join([str(stock()), *map(str, more), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {key: value for key, value in os.environ.items() if key not in ("LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB")}
    return {**env, "PYTHONPATH": path, **(lines(path) if patched else {})}


def run(program: str, *arguments: str, patched: bool = True, more: tuple[Path, ...] = (), **env: str) -> Any:
    """What a program prints, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**variables(patched, *more), **env},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


# --- embeddings ---

# texts are token ids here, so that what is compared is the model; test_texts has the tokenizer
EMBED = """
import json, sys, llama_cpp
from llama_cpp.llama_tokenizer import BaseLlamaTokenizer

class Ids(BaseLlamaTokenizer):
    def tokenize(self, text, add_bos=True, special=True):
        return [int(token) for token in text.split()]
    def detokenize(self, tokens, prev_tokens=None, special=False):
        return b""

path, texts, options = json.loads(sys.argv[1])
together = llama_cpp.__version__ != "0.3.16"  # which cannot decode several texts in a batch, with any BERT
results = []
for flash_attn in (False, True):
    llama = llama_cpp.Llama(path, embedding=True, verbose=False, tokenizer=Ids(), flash_attn=flash_attn, **options)
    results.append({
        "library": llama_cpp.llama_cpp._lib._name,
        "one": [llama.embed(text) for text in texts],
        "all": llama.embed(texts) if together else [llama.embed(text) for text in texts],
        "normalized": llama.embed(texts[0], normalize=True),
        "of tokens": bool(llama_cpp.llama_get_embeddings(llama.ctx)),
    })
print(json.dumps(results))
"""
LENGTHS = (1, 65, 130, 1000)
CELLS = [
    (name, outtype, arch)
    for name in ("tiny", "every2", "granite-small", "biases")
    for outtype in ("f32", "f16", "bf16", "q8_0")
    for arch in ("modern-bert", "modernbert")
]


def embed(path: Path, ids: list[list[int]], options: Mapping[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Without flash attention, which is the default, and with it."""
    texts = [" ".join(map(str, tokens)) for tokens in ids]
    results: list[dict[str, Any]] = run(EMBED, json.dumps([str(path), texts, options]), **more)
    return results


@pytest.mark.parametrize(("name", "outtype", "arch"), CELLS)
def test_equals_transformers(name: str, outtype: OutType, arch: Arch) -> None:
    golden = golden_arrays(name)
    row = POOLINGS.index(own_pooling(name))
    ids = [token_ids(SPECS[name], length) for length in LENGTHS]
    for found in embed(gguf(name, outtype, arch), ids, {"n_ctx": 2048, "n_batch": 2048, "n_ubatch": 2048}):
        assert found["library"] == str(read_build().libraries[0])
        assert not found["of tokens"]  # what llama.h says of a context that pools; no memory is kept for them
        for length, one, together in zip(LENGTHS, found["one"], found["all"], strict=True):
            reference = golden[str(length)][row]
            bars = {"f32": F16_BAR, "f16": F16_BAR, "bf16": golden[f"{length}-bfloat16"][row], "q8_0": Q8_0_BAR}
            for vector in (np.array(one), np.array(together)):
                if outtype == "f32":
                    assert relative_error(vector, reference) <= F32_FACTOR * golden[f"{length}-float32"][row]
                assert cosine_distance(vector, reference) <= bars[outtype]
            if outtype == "f32":  # the others round what they multiply, so that the order of a sum shows
                assert relative_error(np.array(together), np.array(one)) <= BATCH_BAR
        normalized = np.array(found["normalized"])
        assert np.linalg.norm(normalized) == pytest.approx(1, abs=1e-6)
        assert cosine_distance(normalized, np.array(found["one"][0])) <= 1e-12


@pytest.mark.parametrize("arch", ["modern-bert", "modernbert"])
@pytest.mark.parametrize("name", ["yarn", "linear", "yarn-global", "yarn-local"])
def test_the_rope_scaling_of_the_file_counts(name: str, arch: Arch) -> None:
    """The bindings pass arguments of YaRN, at their defaults, to every model."""
    golden = golden_arrays(name)
    row = POOLINGS.index(own_pooling(name))
    sizes = (66, 130, 1000)
    ids = [token_ids(SPECS[name], length) for length in sizes]
    for found in embed(gguf(name, "f32", arch), ids, {"n_ctx": 2048, "n_batch": 2048, "n_ubatch": 2048}):
        for length, one in zip(sizes, found["one"], strict=True):
            bar = F32_FACTOR * golden[f"{length}-float32"][row]
            assert relative_error(np.array(one), golden[str(length)][row]) <= bar


def test_a_ramp_that_is_asked_for_is_taken() -> None:
    ids, path = [token_ids(SPECS["yarn-global"], 130)], gguf("yarn-global")
    (own, _), (other, _) = embed(path, ids, {}), embed(path, ids, {"yarn_beta_fast": 24.0})
    assert relative_error(np.array(other["one"]), np.array(own["one"])) > 1e-3


def test_default_arguments_are_exact_and_stock_is_not() -> None:
    """A plain `Llama(path, embedding=True)`: 512 tokens, keys and values "in F16"."""
    golden = golden_arrays("granite-small")
    reference, own = golden["130"][0], golden["130-float32"][0]
    ids = [token_ids(SPECS["granite-small"], 130)]
    path = gguf("granite-small")
    for ours in embed(path, ids, {}):
        assert relative_error(np.array(ours["one"][0]), reference) <= F32_FACTOR * own
    if OLD:  # from before llama.cpp knew ModernBERT
        with pytest.raises(AssertionError, match="Failed to load model"):
            embed(path, ids, {}, patched=False)
        return
    for theirs in embed(path, ids, {}, patched=False):
        assert relative_error(np.array(theirs["one"][0]), reference) > 10 * F32_FACTOR * own


def test_key_ranges_agree_with_dense_masks() -> None:
    path = gguf("every2")
    ids = [token_ids(SPECS["every2"], length) for length in (130, 300)]
    for ranges, dense in zip(embed(path, ids, {}), embed(path, ids, {}, LLAMA_ATTN_DENSE="1"), strict=True):
        assert ranges["all"] != dense["all"]
        assert relative_error(np.array(ranges["all"]), np.array(dense["all"])) <= BATCH_BAR


TEXTS = ["the river and the stone", "A dog is sleeping under the table. " * 8, "1234 + 5678 = 6912"]
PLAIN = """
import json, sys, modernbert_llama
modernbert_llama.use_with_llama_cpp()
import llama_cpp
path, texts = json.loads(sys.argv[1])
llama = llama_cpp.Llama(path, embedding=True, verbose=False)
together = llama_cpp.__version__ != "0.3.16"
responses = [llama.create_embedding(part) for part in ([texts] if together else texts)]
vectors = [item["embedding"] for response in responses for item in response["data"]]
tokens = sum(response["usage"]["total_tokens"] for response in responses)
print(json.dumps([llama_cpp.llama_cpp._lib._name, vectors, tokens]))
"""


@pytest.mark.parametrize("arch", ["modern-bert", "modernbert"])
def test_texts_with_the_libraries_chosen_in_the_process(arch: Arch) -> None:
    path = gguf("granite-small", "f32", arch)
    library, vectors, n_tokens = run(PLAIN, json.dumps([str(path), TEXTS]), patched=False)
    ours = embedder("granite-small", "f32", arch)
    assert library == str(read_build().libraries[0])
    assert relative_error(np.array(vectors), ours.embed(TEXTS, normalize=False)) <= BATCH_BAR
    assert n_tokens == sum(len(ours.tokenize(text)) for text in TEXTS)


CUT = """
import json, sys, llama_cpp
path, text = json.loads(sys.argv[1])
llama = llama_cpp.Llama(path, embedding=True, verbose=False)
try:
    llama.embed(text, truncate=False)
except ValueError as error:
    print(json.dumps([llama.embed(text, return_count=True), llama.n_batch, str(error)]))
"""


def test_a_text_over_the_limit_is_cut_as_llama_cpp_python_cuts_it() -> None:
    """To its first `n_batch` tokens, so that the closing one is lost: README says so."""
    path, text = gguf("granite-small"), TEXTS[1] * 20
    ours = embedder("granite-small")
    (vector, count), limit, message = run(CUT, json.dumps([str(path), text]))
    assert len(ours.tokenize(text)) > 512 == limit == count
    assert "exceed" in message
    assert (
        relative_error(np.array(vector), ours.embed_tokens([ours.tokenize(text)[:512]], normalize=False)[0])
        <= BATCH_BAR
    )


@pytest.mark.parametrize("first", ["engine", "llama_cpp"])
def test_beside_our_engine_in_one_process(first: str) -> None:
    steps = ["from modernbert_llama import Embedder; ours = Embedder(path)", "import llama_cpp"]
    path = gguf("tiny", "f32", "modernbert")
    program = f"""
import json, sys, modernbert_llama
path = sys.argv[1]
modernbert_llama.use_with_llama_cpp()
{chr(10).join(steps if first == "engine" else reversed(steps))}
theirs = llama_cpp.Llama(path, embedding=True, verbose=False)
text = "the river and the stone"
loaded = sorted({{line.split()[-1] for line in open("/proc/self/maps") if "llama-modernbert" in line}})
print(json.dumps([theirs.embed(text), ours.embed(text, normalize=False).tolist(), loaded]))
"""
    theirs, ours, loaded = run(program, str(path), patched=False)
    assert relative_error(np.array(theirs), np.array(ours)) <= BATCH_BAR
    assert loaded == [str(read_build().libraries[1])]


# --- everything else that llama-cpp-python does ---

GENERATE = """
import itertools, json, sys, llama_cpp
path, prompt, n_tokens, options = json.loads(sys.argv[1])
llama = llama_cpp.Llama(path, n_ctx=256, n_batch=64, n_ubatch=64, logits_all=True, verbose=False, **options)
tokens = list(itertools.islice(llama.generate(prompt, temp=0.0), n_tokens))
llama.reset()
llama.eval(prompt)
print(json.dumps([tokens, llama.scores[:len(prompt)].tolist()]))
"""
MODELS = ["llama", "llama-f16", "llama-bf16", "llama-q8_0", "mamba", "lfm2"]


@functools.cache
def text_model(name: str, widened: bool = False) -> Path:
    path = scratch() / f"text-{name}{'-widened' if widened else ''}.gguf"
    if name in ("mamba", "lfm2"):
        return {"mamba": write_mamba, "lfm2": write_lfm2}[name](path, VERSION)
    return write_llama(path, VERSION, sentences=False, outtype=name.partition("-")[2] or "f32", widened=widened)


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_text_generation_is_that_of_the_stock_libraries(name: str, flash_attn: bool) -> None:
    if OLD and name == "lfm2":
        pytest.skip("0.3.16 does not load this file")
    prompt = np.random.RandomState(4).randint(0, N_VOCAB, 100).tolist()
    outtype = name.partition("-")[2]
    # a cache in F16 would blow up the last bit of the products, which the patched kernels add in another order
    cache = {"type_k": 0, "type_v": 0} if outtype in ("", "f16", "bf16") else {}

    def generate(flash: bool, patched: bool, widened: bool = False) -> tuple[list[int], NDArray[np.float64]]:
        argument = json.dumps([str(text_model(name, widened)), prompt, 48, {"flash_attn": flash, **cache}])
        tokens, logits = run(GENERATE, argument, patched=patched)
        return tokens, np.array(logits)

    tokens, logits = generate(flash_attn, patched=True)
    assert len(set(tokens)) > 10  # the model does not repeat itself, so that an error would show
    if outtype:
        # stock rounds the other operand of a product too, ours not always, which may decide between two tokens
        exact = generate(False, patched=False, widened=True)[1]
        stock_tokens, stock_logits = generate(flash_attn, patched=False)
        assert relative_error(logits, exact) <= 1.1 * relative_error(stock_logits, exact)
        # without tiles both round to Q8_0; on 0.3.16 that decides between two tokens
        if outtype == "q8_0" and not OLD and "amx_int8" not in cpu_flags():
            assert tokens == stock_tokens
            assert flash_attn or relative_error(logits, stock_logits) <= 2e-2
        return
    stock_tokens, stock_logits = generate(flash_attn, patched=False)
    assert tokens == stock_tokens
    bar = 1e-5
    if flash_attn:
        # llama.cpp's own rounds to F16 inside, so that a last bit before it counts: no more than that rounding itself
        bar = max(bar, relative_error(stock_logits, generate(False, patched=False)[1]))
    assert relative_error(logits, stock_logits) <= bar


@pytest.mark.skipif(
    OLD, reason="0.3.16 looks for libmtmd in the working folder if MTMD_CPP_LIB is set, whatever it says"
)
def test_vision_loads_beside_the_patched_libllama() -> None:
    program = """
import json, llama_cpp, llama_cpp.mtmd_cpp as mtmd
loaded = sorted({line.split()[-1] for line in open("/proc/self/maps") if "libllama" in line or "libmtmd" in line})
print(json.dumps([mtmd.mtmd_default_marker().decode(), mtmd._libmtmd._name, loaded]))
"""
    build = read_build()
    marker, library, loaded = run(program)
    assert marker == "<__media__>"
    assert library == str(build.libraries[-1])
    assert loaded == sorted(str(path) for path in build.libraries if "ggml" not in path.name)


def test_bindings_without_libraries_of_their_own(tmp_path: Path) -> None:
    """``CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install llama-cpp-python`` compiles nothing, and suffices."""
    (pin,) = (pin for pin in patchset.PatchSet(ROOT / "patches").upstreams() if pin.version == VERSION)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, upstream.fetch(pin)],
        env={**os.environ, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"},
        check=True,
    )
    assert not list((tmp_path / "llama_cpp").rglob("*.so"))
    # the second has its dependencies
    path = os.pathsep.join([str(tmp_path), str(stock()), *filter(None, [os.environ.get("PYTHONPATH")])])
    library, vectors, _ = run(PLAIN, json.dumps([str(gguf("tiny")), TEXTS]), patched=False, PYTHONPATH=path)
    assert library == str(read_build().libraries[0])
    assert len(vectors) == len(TEXTS)


# --- llama-cpp-python's own tests ---


def own_tests(folder: Path, env: Mapping[str, str]) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and the names of the tests by outcome."""
    (pin,) = (
        pin for pin in patchset.PatchSet(ROOT / "patches").upstreams() if pin.name == f"llama-cpp-python-{VERSION}"
    )
    vocabulary = "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf"
    with tarfile.open(upstream.fetch(pin)) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if member.isfile() and (name == vocabulary or name.startswith("tests/")):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                target.write_bytes(source.read())
    write_llama(folder / "llama.gguf", VERSION)
    shutil.copyfile(text_model("mamba"), folder / "mamba.gguf")
    shutil.copyfile(text_model("lfm2"), folder / "lfm2.gguf")
    shutil.copyfile(gguf("granite-small", "f32", "modernbert"), folder / "modernbert.gguf")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "llama_cpp_suite", "-p", "no:cacheprovider", "-c", os.devnull,
         "--rootdir", folder, f"--junitxml={folder / 'report.xml'}", "tests"],
        cwd=folder,
        env={**env, "SUITE_MODELS": str(folder)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )  # fmt: skip
    outcomes: dict[str, list[str]] = {"passed": [], "skipped": [], "failed": []}
    if not (folder / "report.xml").is_file():
        raise AssertionError(result.stdout[-2000:] + result.stderr[-2000:])
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "passed" if not kinds else "skipped" if kinds == {"skipped"} else "failed"
        outcomes[outcome].append(str(case.get("name")))
    return result.returncode, outcomes


def test_llama_cpp_pythons_own_tests_pass(tmp_path: Path) -> None:
    env = variables(True, Path(__file__).parent, integrations())
    status, outcomes = own_tests(tmp_path, {**env, "SUITE_LIBRARY": str(read_build().libraries[0])})
    assert (status, outcomes["failed"]) == (0, [])
    assert sorted(outcomes["skipped"]) == sorted(llama_cpp_suite.SKIPPED)
    assert len(outcomes["passed"]) >= {"0.3.16": 11}.get(VERSION, 26)


def test_llama_cpp_pythons_own_tests_fail_on_broken_libraries(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the libraries themselves were built with one"
    build = read_build()
    broken = tmp_path / "lib" / build.libraries[0].name
    broken.parent.mkdir()
    (tmp_path / "broken.c").write_text("int llama_decode(void * ctx) { (void) ctx; return 1; }")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", broken, tmp_path / "broken.c", "-Wl,--no-as-needed", build.libraries[0],
         f"-Wl,-rpath,{build.folder}", f"-Wl,-rpath-link,{build.libraries[1].parent}"],
        check=True,
    )  # fmt: skip
    env = variables(True, Path(__file__).parent, integrations())
    env |= {"LLAMA_CPP_LIB_PATH": str(broken.parent), "SUITE_LIBRARY": str(broken)}
    status, outcomes = own_tests(tmp_path, env)
    assert status == 1
    assert "test_real_llama" in outcomes["failed"]


# --- LangChain and LlamaIndex ---

LANGCHAIN = """
import json, sys, warnings
warnings.simplefilter("ignore")
path, texts, sizes = json.loads(sys.argv[1])
from langchain_community.embeddings import LlamaCppEmbeddings
import llama_cpp
model = LlamaCppEmbeddings(model_path=path, verbose=False, **sizes)
assert llama_cpp.llama_cpp._lib._name == sys.argv[2]
"""
ONE_BY_ONE = """
print(json.dumps([model.embed_documents(texts), [model.embed_query(text) for text in texts]]))
"""
LLAMA_INDEX = """
from llama_index.embeddings.langchain import LangchainEmbedding
index = LangchainEmbedding(model)
print(json.dumps([index.get_text_embedding_batch(texts), [index.get_query_embedding(text) for text in texts]]))
"""


@one_text_a_call
@pytest.mark.parametrize("arch", ["modern-bert", "modernbert"])
@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_langchain_and_llama_index(framework: str, arch: Arch) -> None:
    """LlamaIndex has no class of its own for embeddings of llama.cpp; its adapter of LangChain's is the usual way."""
    path = gguf("granite-small", "f32", arch)
    program = LANGCHAIN + (ONE_BY_ONE if framework == "langchain" else LLAMA_INDEX)
    argument = json.dumps([str(path), TEXTS, {"n_ctx": 1024, "n_batch": 1024}])
    documents, queries = run(program, argument, str(read_build().libraries[0]), more=(integrations(),))
    ours = Embedder(path).embed(TEXTS, normalize=False)
    assert relative_error(np.array(documents), ours) <= BATCH_BAR
    assert relative_error(np.array(queries), ours) <= BATCH_BAR


SERVED = """
import asyncio, json, socket, sys, threading, time, warnings
warnings.simplefilter("ignore")
import uvicorn
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
path, texts = json.loads(sys.argv[1])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
settings = ModelSettings(model=path, model_alias="modernbert", embedding=True, verbose=False)
app = create_app(server_settings=ServerSettings(port=port), model_settings=[settings])
server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.05)
model = OpenAILikeEmbedding("modernbert", api_base=f"http://127.0.0.1:{port}/v1", api_key="none")
print(json.dumps(model.get_text_embedding_batch(texts)))
server.should_exit = True
"""


@one_text_a_call
def test_llama_index_with_llama_cpp_pythons_server() -> None:
    path = gguf("granite-small", "f32", "modernbert")
    found = run(SERVED, json.dumps([str(path), TEXTS]), more=(integrations(),), NO_PROXY="127.0.0.1")
    assert relative_error(np.array(found), Embedder(path).embed(TEXTS, normalize=False)) <= BATCH_BAR
