"""Hub models, against a hub on localhost that answers what huggingface_hub asks."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import pytest
from models import gguf as converted_spec
from modernbert_llama.cache import converted
from modernbert_llama.checkpoint import content_sha256
from modernbert_llama.convert import convert
from modernbert_llama.errors import CheckpointError, InputError, ModelNotFoundError
from modernbert_llama.hub import find_source
from modernbert_llama.hub_download import fetch_file
from modernbert_llama.llama_compat import Llama
from tiny_checkpoint import write_modules, write_tiny

REVISIONS = {"main": "a" * 40, "v1": "b" * 40}


@dataclass
class Repository:
    folders: dict[str, Path]  # by commit
    token: str | None = None
    gated: bool = False


@dataclass
class Hub:
    """Repositories by id, and the paths of all requests."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def downloads(self) -> list[str]:
        return [path.rsplit("/", 1)[1] for path in self.requests if path.startswith("GET ") and "/resolve/" in path]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        status, headers, content = self.find(path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, verb, revision = "/".join(parts[2:4]), parts[4], parts[5]
        else:
            name, verb, revision = "/".join(parts[:2]), parts[2], parts[3]
        repository = self.hub.repositories.get(name)
        if repository is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if repository.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        commit = REVISIONS.get(revision, revision)
        if commit not in repository.folders:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        folder = repository.folders[commit]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if verb == "revision":
            siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
            return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        if verb == "tree":
            entries = [
                {
                    "type": "file",
                    "path": file.relative_to(folder).as_posix(),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            return 200, {}, json.dumps(entries).encode()
        file = folder.joinpath(*parts[4:])
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        is_large = file.suffix == ".safetensors"  # on the real hub, Git LFS: the ETag is the sha256
        etag = (hashlib.sha256 if is_large else hashlib.sha1)(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}, content


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": found}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    found.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = write_tiny(tmp_path / "source", shards=2)
    write_modules(path)
    (path / "tokenizer.model").write_text("not read beside tokenizer.json, but who knows before")
    for unwanted in ("README.md", "pytorch_model.bin", "onnx/model.onnx", "openvino/model.safetensors"):
        (path / unwanted).parent.mkdir(exist_ok=True)
        (path / unwanted).write_text("not wanted")
    return path


WANTED = {
    "config.json",  # and those of the modules
    "modules.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}


def test_conversion_from_the_hub_equals_one_from_the_folder(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repositories["acme/tiny"] = Repository({REVISIONS["main"]: folder})
    path = convert("acme/tiny", tmp_path / "hub.gguf", cache_dir=tmp_path / "hf")
    assert set(hub.downloads()) == WANTED, "and nothing that the converter does not read"
    local = convert(folder, tmp_path / "local.gguf")
    found, expected = gguf.GGUFReader(path), gguf.GGUFReader(local)
    assert found.fields["general.name"].contents() == "acme/tiny"
    for name, value in expected.fields.items():
        assert name == "general.name" or found.fields[name].contents() == value.contents(), name
    assert [(t.name, bytes(t.data)) for t in found.tensors] == [(t.name, bytes(t.data)) for t in expected.tensors]


def test_a_second_load_downloads_nothing_and_needs_no_hub(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["acme/tiny"] = Repository({REVISIONS["main"]: folder})
    cache = tmp_path / "cache"
    first = converted("acme/tiny", cache_dir=cache)
    n_downloads = len(hub.downloads())
    assert n_downloads
    assert converted("acme/tiny", cache_dir=cache) == first
    assert len(hub.downloads()) == n_downloads
    assert converted(folder, cache_dir=cache) == first, "keyed by content, wherever it lies"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert converted("acme/tiny", cache_dir=cache) == first


def test_revisions(hub: Hub, folder: Path, tmp_path: Path) -> None:
    older = write_tiny(tmp_path / "older", global_attn_every_n_layers=2, layer_types=None)
    hub.repositories["acme/tiny"] = Repository({REVISIONS["main"]: folder, REVISIONS["v1"]: older})
    for revision, expected in ((None, folder), ("main", folder), ("v1", older), ("b" * 40, older)):
        found = find_source("acme/tiny", revision=revision, cache_dir=tmp_path / "hf")
        assert content_sha256(found.folder) == content_sha256(expected)
    with pytest.raises(ModelNotFoundError, match="'acme/tiny' has no revision 'v9'"):
        find_source("acme/tiny", revision="v9", cache_dir=tmp_path / "hf")


def test_private_models_need_the_token(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["acme/private"] = Repository({REVISIONS["main"]: folder}, token="hf_good")
    for token in (None, "hf_bad"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ModelNotFoundError, match=r"acme/private.*HF_TOKEN"):
            find_source("acme/private", cache_dir=tmp_path / "hf")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert (find_source("acme/private", cache_dir=tmp_path / "hf").folder / "config.json").is_file()


def test_models_that_cannot_be_had(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hf"
    with pytest.raises(ModelNotFoundError, match=r"no folder 'acme/missing'.*check the name") as caught:
        find_source("acme/missing", cache_dir=cache)
    assert isinstance(caught.value, FileNotFoundError)
    hub.repositories["acme/gated"] = Repository({}, gated=True)
    with pytest.raises(ModelNotFoundError, match="gated"):
        find_source("acme/gated", cache_dir=cache)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing else")
    hub.repositories["acme/empty"] = Repository({REVISIONS["main"]: empty})
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        find_source("acme/empty", cache_dir=cache)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match="HF_ENDPOINT"):
        find_source("acme/unreachable", cache_dir=cache)


@pytest.fixture
def ggufs(hub: Hub, tmp_path: Path) -> Path:
    """acme/gguf, with two files, one in a folder."""
    folder = tmp_path / "ggufs"
    for name, outtype in (("tiny-f32.gguf", "f32"), ("quantised/tiny-q8_0.gguf", "q8_0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(converted_spec("tiny", outtype))
    (folder / "notes.txt").write_text("notes")
    hub.repositories["acme/gguf"] = Repository({REVISIONS["main"]: folder})
    return folder


@pytest.mark.parametrize("filename", ["tiny-f32.gguf", "*f32.gguf", "quantised/tiny-q8_0.gguf", "*q8_0*"])
@pytest.mark.parametrize("local", [False, True])
def test_llama_from_the_hub(hub: Hub, ggufs: Path, tmp_path: Path, filename: str, local: bool) -> None:
    where: dict[str, Path] = {"local_dir": tmp_path / "local"} if local else {"cache_dir": tmp_path / "hf"}
    llama = Llama.from_pretrained(
        "acme/gguf", filename, ["notes*"], local_dir_use_symlinks=False, n_ctx=64, embedding=True, **where
    )
    (source,) = ggufs.rglob(f"*{'f32' if 'f32' in filename else 'q8_0'}.gguf")
    assert llama.n_ctx() == 64
    assert llama.embed("hello") == Llama(str(source), n_ctx=64).embed("hello")
    assert sorted(hub.downloads()) == ["notes.txt", source.name]
    folder = next(iter(where.values()))
    assert list(folder.rglob("notes.txt")), "additional_files"
    assert Path(llama.model_path).is_relative_to(folder)


@pytest.mark.usefixtures("ggufs")
def test_a_cached_file_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch_file("acme/gguf", "tiny-f32.gguf", cache_dir=tmp_path / "hf")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert fetch_file("acme/gguf", "tiny-f32.gguf", cache_dir=tmp_path / "hf") == first
    with pytest.raises(ModelNotFoundError, match="HF_ENDPOINT"):
        fetch_file("acme/gguf", "*q8_0.gguf", cache_dir=tmp_path / "hf")


@pytest.mark.parametrize(
    ("filename", "problem"),
    [
        ("*.gguf", r"2 files of 'acme/gguf' match .*tiny-f32\.gguf"),
        ("*.bin", r"no file of 'acme/gguf' matches '\*\.bin'; it has: .*tiny-f32\.gguf"),
        ("absent.gguf", r"no file of 'acme/gguf' matches 'absent\.gguf'"),
    ],
)
@pytest.mark.usefixtures("ggufs")
def test_files_that_the_hub_has_not(tmp_path: Path, filename: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        fetch_file("acme/gguf", filename, cache_dir=tmp_path / "hf")
    with pytest.raises(ModelNotFoundError, match="no such model on the hub: 'acme/none'"):
        fetch_file("acme/none", filename, cache_dir=tmp_path / "hf")
    with pytest.raises(InputError, match="filename is None"):
        Llama.from_pretrained("acme/gguf", None)


def test_a_hub_model_without_safetensors(hub: Hub, folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("model*safetensors*"):
        file.unlink()
    hub.repositories["acme/old"] = Repository({REVISIONS["main"]: folder})
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*save_pretrained"):
        convert("acme/old", tmp_path / "out.gguf", cache_dir=tmp_path / "hf")
    assert "pytorch_model.bin" not in hub.downloads()


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "/nowhere/x", "a b", "acme/..", "acme/x--y", "acme/x.git"])
def test_names_that_are_neither_folder_nor_id(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFoundError, match=r"not a hub id|empty"):
        find_source(name, cache_dir=tmp_path / "hf")
    assert hub.requests == []
