"""Every pinned upstream but the default: the extension is built against it, as a user would, and equals transformers.

``MODERNBERT_LLAMA_UPSTREAM=NAME`` runs one upstream only (CI rotates).
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from form_checkpoint import form_checkpoint
from models import gguf, scratch
from modernbert_llama.convert import OutType, convert
from modernbert_llama.embedder import Embedder
from modernbert_llama.keys import ARCHS, Arch
from modernbert_llama.synthetic import token_ids
from numpy.typing import NDArray
from specs import POOLINGS, SPECS, cosine_distance, golden_arrays, is_slow, lengths, relative_error
from test_parity_golden import BATCH_BAR, F16_BAR, F32_FACTOR, Q8_0_BAR, own_pooling
from tokenizer_forms import FORMS, corpus
from upstream_builds import PATCHES, ROOT, SETTINGS, built, drop_in, environment, run

pytestmark = pytest.mark.slow

DEFAULT = PATCHES.upstreams()[0].name
CHOSEN = os.environ.get("MODERNBERT_LLAMA_UPSTREAM", "")
OTHERS = [upstream.name for upstream in PATCHES.upstreams() if upstream.name != DEFAULT]
UPSTREAMS = [name for name in OTHERS if CHOSEN in ("", name)]
if not UPSTREAMS:
    pytest.skip(f"MODERNBERT_LLAMA_UPSTREAM {CHOSEN!r} is none of {OTHERS}", allow_module_level=True)
DROP_INS = [name for name in UPSTREAMS if PATCHES.upstream(name).package == "llama-cpp-python"]
OUTTYPES: tuple[OutType, ...] = ("f32", "f16", "bf16", "q8_0")

# reads jobs (file, calls of rows of token ids), writes the vectors of each
EMBED = """
import json, sys
import numpy as np
from modernbert_llama import Embedder
result = {}
for job in json.load(open(sys.argv[1])):
    model = Embedder(job["file"], per_channel=job["per_channel"])
    vectors = [model.embed_tokens(call, normalize=False) for call in job["calls"]]
    result[job["name"]] = np.concatenate(vectors)
np.savez(sys.argv[2], **result)
"""


def job(
    name: str,
    outtype: OutType,
    arch: Arch,
    calls: list[list[list[int]]],
    per_channel: bool = False,
) -> dict[str, object]:
    file = str(gguf(name, outtype, arch))
    return {"name": name, "file": file, "calls": calls, "per_channel": per_channel}


def embed(
    upstream: str, jobs: list[dict[str, object]], env: dict[str, str] | None = None
) -> dict[str, NDArray[np.float32]]:
    source, target = scratch() / "jobs.json", scratch() / "vectors.npz"
    source.write_text(json.dumps(jobs), encoding="utf-8")
    run(EMBED, source, target, env={**environment(built(upstream)), **(env or {})})
    with np.load(target) as vectors:
        return {key: vectors[key] for key in vectors.files}


def fast_lengths(name: str) -> list[int]:
    return [length for length in lengths(name) if length <= 1000 and not is_slow(name, length)]


# the two largest take gigabytes of files; the others have every detail of theirs
SHAPES = [name for name in SPECS if name not in ("base", "large")]


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_equals_transformers(upstream: str, arch: Arch, outtype: OutType) -> None:
    jobs = [
        job(name, outtype, arch, [[token_ids(SPECS[name], length)] for length in fast_lengths(name)]) for name in SHAPES
    ]
    worst_distance, worst_error, failures = 0.0, 0.0, []
    for name, vectors in embed(upstream, jobs).items():
        golden, row = golden_arrays(name), POOLINGS.index(own_pooling(name))
        for length, ours in zip(fast_lengths(name), vectors, strict=True):
            reference = golden[str(length)][row]
            error, distance = relative_error(ours, reference), cosine_distance(ours, reference)
            worst_distance, worst_error = max(worst_distance, distance), max(worst_error, error)
            bars = {"f16": F16_BAR, "bf16": golden[f"{length}-bfloat16"][row], "q8_0": Q8_0_BAR}
            if outtype == "f32":
                passed = error <= F32_FACTOR * golden[f"{length}-float32"][row]
            else:
                passed = distance <= bars[outtype]
            if not passed:
                failures.append((name, length, error, distance))
    print(f"{upstream} {arch} {outtype}: 1-cos {worst_distance:.1e}, relative error {worst_error:.1e}")
    assert not failures, failures


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_batched_equals_one_at_a_time(upstream: str) -> None:
    names = ["tiny", "every2", "biases", "window32"]
    sizes = [130, 1, 65, 2, 66, 64, 300, 3, 1, 129, 17, 513, 33, 34, 128, *([5] * 300)]
    texts = {name: [token_ids(SPECS[name], n, seed) for seed, n in enumerate(sizes)] for name in names}
    alone = embed(upstream, [job(name, "f32", "modern-bert", [[text] for text in texts[name]]) for name in names])
    together = embed(upstream, [job(name, "f32", "modern-bert", [texts[name]]) for name in names])
    for name in names:
        for ours, reference in zip(together[name], alone[name], strict=True):
            assert relative_error(ours, reference) <= BATCH_BAR


@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_fast_equals_plain(upstream: str, outtype: OutType) -> None:
    """A switch that the upstream's series has no patch for changes nothing."""
    name = "granite-small"
    calls = [[token_ids(SPECS[name], n, n) for n in (1, 2, 63, 64, 65, 66, 129, 200, 700, *range(3, 40))]]
    fast = embed(upstream, [job(name, outtype, "modern-bert", calls)])[name]
    for switch, value in SETTINGS:
        plain = embed(upstream, [job(name, outtype, "modern-bert", calls)], env={switch: value})[name]
        error = np.linalg.norm(fast - plain, axis=1) / np.linalg.norm(plain, axis=1)
        assert error.max() < {"f32": 1e-5, "bf16": 4e-3, "q8_0": 1.5e-2}[outtype], (switch, value)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_per_channel_works_or_is_refused_by_name(upstream: str) -> None:
    name = "granite-small"
    calls = [[token_ids(SPECS[name], n, n) for n in (1, 40, 200)]]
    jobs = [job(name, "q8_0", "modern-bert", calls, per_channel=True)]
    if any("per-channel" in path.name for path in PATCHES.series(PATCHES.upstream(upstream))):
        channels = embed(upstream, jobs)[name]
        exact = embed(upstream, [job(name, "f32", "modern-bert", calls)])[name]
        for ours, reference in zip(channels, exact, strict=True):
            assert 0 < cosine_distance(ours, reference) < 2e-3
    else:
        with pytest.raises(AssertionError, match="InputError: per_channel is not possible with this build"):
            embed(upstream, jobs)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_bad_files_are_refused_by_name(upstream: str) -> None:
    pytest_run(environment(built(upstream)), str(ROOT / "tests" / "test_bad_files.py"))


def pytest_run(env: dict[str, str], *arguments: str) -> str:
    """Tests of another file, on the packages that ``env`` finds."""
    program = "import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))\n"
    return run(program, "-q", "-p", "no:cacheprovider", *arguments, env=env)


# --- the drop-in: the llama-cpp-python of the release on the patched libraries ---


@pytest.mark.parametrize("upstream", DROP_INS)
def test_under_the_llama_cpp_python_of_the_release(upstream: str) -> None:
    """All of test_llama_cpp.py, llama-cpp-python's own tests among them."""
    env = environment(built(upstream))
    pytest_run(env, "-m", "slow", str(ROOT / "tests" / "test_llama_cpp.py"))


EMBED_TEXTS = """
import json, sys, llama_cpp
llama = llama_cpp.Llama(sys.argv[1], embedding=True, n_ctx=512, n_batch=512, n_ubatch=512)
print(json.dumps([llama.embed(text) for text in json.loads(sys.argv[2])]))
"""
UNKNOWN = ("granite-embed-multi-97m", "sarvam-moe")  # pre-tokenizers that these releases know by no name


def is_refused(name: str) -> bool:
    ggml = FORMS[name].ggml
    return ggml is not None and ggml[1] in UNKNOWN


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.ggml is not None])
@pytest.mark.parametrize("upstream", DROP_INS)
def test_a_vocabulary_works_or_is_refused_by_name(upstream: str, name: str) -> None:
    pytest.importorskip("transformers")
    file = scratch() / f"form-{name}.gguf"
    if not file.is_file():
        convert(form_checkpoint(scratch() / f"form-{name}", name), file, show_progress=False)
    texts = list(corpus()[:40])
    if is_refused(name):
        with pytest.raises(AssertionError, match="unknown pre-tokenizer type: '"):
            run(EMBED_TEXTS, file, json.dumps(texts), env=drop_in(upstream))
        with pytest.raises(AssertionError, match=r"ModelFileError.*unknown pre-tokenizer type: '"):
            run("import sys; from modernbert_llama import Embedder; Embedder(sys.argv[1])", file, env=drop_in(upstream))
        return
    theirs = np.array(json.loads(run(EMBED_TEXTS, file, json.dumps(texts), env=drop_in(upstream)).splitlines()[-1]))
    ours = Embedder(file).embed(texts, normalize=False)
    different = [cosine_distance(*vectors) > 1e-4 for vectors in zip(theirs, ours, strict=True)]
    # such releases have no bytes for a unigram vocabulary, and take Hangul apart in WordPiece
    share = 0.5 if name in ("ruri", "ruri-model", "charsmap-model", "wordpiece") else 0.0
    assert np.mean(different) <= share, different
