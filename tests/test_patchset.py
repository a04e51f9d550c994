"""The patch set on a toy upstream: stacked edits of one line, inside another git work tree, without a network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from modernbert_llama import patchset, upstream
from modernbert_llama.errors import PatchSetError
from modernbert_llama.gittree import STAMP
from modernbert_llama.patchset import PatchSet

LINES = "".join(f"line {i}\n" for i in range(1, 41))
V1 = {"src/main.c": LINES, "src/other.c": LINES, "run.sh": "#!/bin/sh\n", ".gitignore": "*.gen\n", "kept.gen": "1\n"}
STACKED = ("toy-first.patch", "toy-second.patch", "toy-new-file.patch")


def message(subject: str) -> str:
    return f"toy : {subject}\n\nWhy: it was wrong. Test: run it.\n\nForwarded: no\nApplied-Upstream: no\n"


def write_sdist(path: Path, files: Mapping[str, str], extra: tarfile.TarInfo | None = None) -> str:
    """A source distribution of ``files`` below vendor/toy; its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {**files, "docs/big.txt": "not needed\n", ".git": "gitdir: elsewhere\n"}.items():
            info = tarfile.TarInfo(f"{path.name[:-7]}/vendor/toy/{name}")
            info.size = len(text)
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
        if extra is not None:
            tar.addfile(extra)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git(folder: Path, *args: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *args], cwd=folder, env=clean, check=True, capture_output=True, text=True).stdout


def commit(tree: Path, subject: str, changes: Mapping[str, str]) -> None:
    for name, text in changes.items():
        (tree / name).write_text(text)
        git(tree, "add", "--force", name)
    git(tree, "commit", "--quiet", "-m", message(subject))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """links/toy-1.0.tar.gz and outer/{patches,tree}: three patches, in a work tree of another repository."""
    made = tmp_path_factory.mktemp("made")
    links = made / "links"
    links.mkdir()
    sdist = links / "toy-1.0.tar.gz"
    sha256 = write_sdist(sdist, V1)
    outer = made / "outer"
    root = outer / "patches"
    root.mkdir(parents=True)
    git(outer, "init", "--quiet")
    entry = upstream.Upstream("toy-1.0", "toy", "1.0", "abc", sha256, "vendor/toy", ("docs",), "")
    (root / "upstreams.json").write_text(json.dumps([entry.to_json()]))
    tree = outer / "tree"
    patchset.apply_git(PatchSet(root), entry, tree, sdist)
    commit(tree, "first", {"src/main.c": LINES.replace("line 20\n", "line twenty\n")})
    commit(tree, "second", {"src/main.c": LINES.replace("line 20\n", "LINE TWENTY\n")})
    commit(tree, "new file", {"src/new.gen": "new\n", "src/other.c": LINES.replace("line 5\n", "line five\n")})
    assert patchset.export(PatchSet(root), entry, tree) == list(STACKED)
    return made


@pytest.fixture
def toy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchSet:
    """A copy of what was made, to be spoilt; its sdist is found by pip's find-links, and nothing else is."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name in [name for name in os.environ if name.startswith(("PIP_", "GIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'absent'} {tmp_path / 'links'}")
    monkeypatch.setenv("MODERNBERT_LLAMA_CACHE", str(tmp_path / "cache"))
    return PatchSet(tmp_path / "outer" / "patches")


def dest(toy: PatchSet) -> Path:
    return toy.root.parent / "build" / "toy"


def test_apply_makes_the_whole_tree_inside_another_work_tree(toy: PatchSet) -> None:
    assert patchset.apply(toy, toy.upstream(), dest(toy))
    names = {path.relative_to(dest(toy)).as_posix() for path in dest(toy).rglob("*") if path.is_file()}
    assert names == {*V1, "src/new.gen", STAMP}
    assert "LINE TWENTY\n" in (dest(toy) / "src/main.c").read_text()
    assert patchset.tree_hash(dest(toy)) == toy.upstream().tree
    assert (dest(toy) / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (dest(toy) / "kept.gen").stat().st_mode & 0o777 == 0o644
    assert list(dest(toy).parent.iterdir()) == [dest(toy)], "a temporary folder was left"


def test_tree_hash_is_what_sha256sum_gives(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"1")
    (tmp_path / "a").write_bytes(b"2")
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in (("a", b"2"), ("b/x", b"1")))
    assert patchset.tree_hash(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_second_apply_does_nothing_and_an_edit_renews_only_what_changed(toy: PatchSet) -> None:
    patchset.apply(toy, toy.upstream(), dest(toy))
    os.utime(dest(toy) / "src/other.c", ns=(1, 1))
    os.utime(dest(toy) / "src/main.c", ns=(1, 1))
    inode = dest(toy).stat().st_ino
    assert not patchset.apply(toy, toy.upstream(), dest(toy))
    assert dest(toy).stat().st_ino == inode

    git(toy.root.parent / "tree", "reset", "--quiet", "--hard", "HEAD~1")
    commit(toy.root.parent / "tree", "third", {"src/main.c": LINES.replace("line 20\n", "20\n")})
    patchset.export(toy, toy.upstream(), toy.root.parent / "tree")
    assert patchset.apply(toy, toy.upstream(), dest(toy))
    assert (dest(toy) / "src/main.c").stat().st_mtime_ns > 1
    assert not (dest(toy) / "src/new.gen").exists()
    assert (dest(toy) / "src/other.c").stat().st_mtime_ns > 1, "the third patch's removal changed it back"
    os.utime(dest(toy) / "src/other.c", ns=(1, 1))
    git(toy.root.parent / "tree", "reset", "--quiet", "--hard", "HEAD~1")
    patchset.export(toy, toy.upstream(), toy.root.parent / "tree")
    assert patchset.apply(toy, toy.upstream(), dest(toy))
    assert (dest(toy) / "src/other.c").stat().st_mtime_ns == 1, "unchanged, so it must not be compiled again"


def test_apply_failure_leaves_nothing_or_the_old_tree(toy: PatchSet) -> None:
    second = toy.folder(toy.upstream()) / "toy-second.patch"
    good = second.read_bytes()
    second.write_bytes(good.replace(b"line twenty", b"line 20"))
    with pytest.raises(PatchSetError, match=r"toy-second\.patch: does not apply"):
        patchset.apply(toy, toy.upstream(), dest(toy))
    assert not any(dest(toy).parent.iterdir())
    second.write_bytes(good)
    patchset.apply(toy, toy.upstream(), dest(toy))
    before = patchset.tree_hash(dest(toy))
    second.write_bytes(good.replace(b"LINE TWENTY", b"LINE 20"))
    with pytest.raises(PatchSetError, match="hash"):
        patchset.apply(toy, toy.upstream(), dest(toy))
    assert patchset.tree_hash(dest(toy)) == before
    assert list(dest(toy).parent.iterdir()) == [dest(toy)]


def test_apply_never_replaces_what_it_did_not_make(toy: PatchSet) -> None:
    dest(toy).mkdir(parents=True)
    (dest(toy) / "precious").touch()
    with pytest.raises(PatchSetError, match="not made by"):
        patchset.apply(toy, toy.upstream(), dest(toy))
    with pytest.raises(PatchSetError, match="never overwritten"):
        patchset.apply_git(toy, toy.upstream(), toy.root.parent / "tree")
    assert (dest(toy) / "precious").exists()


def test_check_passes_and_needs_neither_identity_nor_configuration(
    toy: PatchSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / ".gitconfig"
    hostile.write_text("[core]\nautocrlf = true\n[diff]\nnoprefix = true\ncontext = 9\n[format]\nsignoff = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(hostile))
    monkeypatch.setenv("GIT_DIR", str(toy.root.parent / ".git"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert patchset.check(toy, toy.upstream()) == []


def edit(toy: PatchSet, name: str, old: str, new: str) -> None:
    path = toy.folder(toy.upstream()) / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        pytest.param("toy-first.patch", " line 17\n", " line 17 \n", "does not apply", id="fuzz"),
        pytest.param("toy-first.patch", "@@ -17,7 +17,7 @@", "@@ -16,7 +16,7 @@", "export differs", id="offset"),
        pytest.param("toy-second.patch", "\nFrom: ", "\nX-From: ", "no From header", id="from"),
        pytest.param("toy-second.patch", "toy : second", "second", "'module : title'", id="form"),
        pytest.param("toy-second.patch", "toy : second", "toy : sécond", "ASCII", id="ascii"),
        pytest.param("toy-second.patch", "toy : second", "toy : other", r"named toy-other\.patch", id="slug"),
        pytest.param("toy-second.patch", "Why: it was wrong. Test: run it.\n", "", "no body", id="body"),
        pytest.param("toy-second.patch", "Forwarded: no\n", "", "no Forwarded", id="forwarded"),
        pytest.param("toy-second.patch", "Applied-Upstream: no\n", "", "no Applied-Upstream", id="applied"),
        pytest.param("toy-second.patch", "+LINE TWENTY", "+LINE 20", "hash is", id="tree"),
        pytest.param("toy-second.patch", "Date: ", "X-Other: 1\nDate: ", "export differs", id="export"),
        pytest.param("series", "toy-second.patch\n", "", r"toy-second\.patch: not listed", id="orphan"),
        pytest.param("series", "toy-first.patch\n", "toy-first.patch\n" * 2, "listed twice", id="twice"),
        pytest.param("series", "toy-first", "toy-gone.patch\ntoy-first", r"gone\.patch: .* no such file", id="missing"),
    ],
)
def test_check_fails(
    toy: PatchSet, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, problem: str
) -> None:
    edit(toy, name, old, new)
    assert any(re.search(problem, line) for line in patchset.check(toy, toy.upstream()))
    assert patchset.main(["check", "--patches", str(toy.root)]) == 1
    assert "toy-1.0: problems:" in capsys.readouterr().out


def test_check_fails_on_a_stray_file_and_a_changed_pin(toy: PatchSet) -> None:
    unpinned = dataclasses.replace(toy.upstream(), sha256="")
    assert patchset.check(toy, unpinned) == ["the pin's sha256 is not one"]
    (toy.folder(toy.upstream()) / "toy-first.patch.orig").touch()
    assert any("toy-first.patch.orig: not listed" in line for line in patchset.check(toy, toy.upstream()))
    changed = dataclasses.replace(toy.upstream(), tree="0" * 64)
    assert any("the pin says 000" in line for line in patchset.check(toy, changed))


def test_check_fails_on_a_wrong_sha256(toy: PatchSet, tmp_path: Path) -> None:
    cached = upstream.fetch(toy.upstream())
    sdist = tmp_path / "links" / "toy-1.0.tar.gz"
    write_sdist(sdist, {**V1, "src/evil.c": ""})
    assert patchset.check(toy, toy.upstream()) == [], "the cached copy is still right"
    assert any("sha256 is" in line for line in patchset.check(toy, toy.upstream(), sdist))
    cached.write_bytes(b"damaged")
    assert any("sha256 is" in line for line in patchset.check(toy, toy.upstream()))
    assert cached.read_bytes() == b"damaged", "what failed the check must not be cached"


def test_export_writes_the_same_bytes_wherever_it_runs(toy: PatchSet, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in toy.folder(toy.upstream()).iterdir()}
    pins = toy.pins.read_bytes()
    patchset.apply_git(toy, toy.upstream(), tmp_path / "again")
    for tree, output in ((None, None), (tmp_path / "again", tmp_path / "out"), (tmp_path / "again", None)):
        patchset.export(toy, toy.upstream(), tree, output)
        folder = output or toy.folder(toy.upstream())
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert toy.pins.read_bytes() == pins
    for name in STACKED:
        assert b"\n-- \n" not in before[name], "git's version would be part of the file"
        assert before[name].startswith(b"From " + b"0" * 40)


def test_export_refuses_what_is_not_committed_and_equal_subjects(toy: PatchSet) -> None:
    tree = toy.root.parent / "tree"
    (tree / "src/main.c").write_text("dirty\n")
    with pytest.raises(PatchSetError, match="not committed"):
        patchset.export(toy, toy.upstream(), tree)
    commit(tree, "First!", {"src/main.c": "dirty\n"})
    with pytest.raises(PatchSetError, match=r"both be written to toy-first\.patch"):
        patchset.export(toy, toy.upstream(), tree)
    with pytest.raises(PatchSetError, match="no git repository"):
        patchset.export(toy, toy.upstream(), toy.root)


def test_list(toy: PatchSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert patchset.main(["list", "--patches", str(toy.root)]) == 0
    out = capsys.readouterr().out
    assert "toy-new-file.patch  +2 -1  (Forwarded: no, Applied-Upstream: no)" in out
    assert "src/new.gen  +1 -0" in out


def test_counts_survive_lines_that_look_like_headers(tmp_path: Path) -> None:
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n--- gone\n+++ come\n same\n"
    (tmp_path / "p.patch").write_text(f"From: A <a@b.c>\nSubject: m : t\n\nWhy.\n\n{diff}")
    assert patchset.Patch.read(tmp_path / "p.patch").files == (("x", 1, 1),)


def test_refresh_onto_itself_renews_files_and_hash(toy: PatchSet) -> None:
    edit(toy, "toy-second.patch", "+LINE TWENTY", "+LINE 20")
    assert patchset.check(toy, toy.upstream())
    assert patchset.main(["refresh", "--patches", str(toy.root)]) == 0
    assert patchset.check(toy, toy.upstream()) == []


# version 2: the stacked pair meets a changed line, the new-file patch an insertion above and a renamed neighbour
MOVED = "".join(f"top {i}\n" for i in range(30)) + LINES
V2_CARRY = {**V1, "src/main.c": MOVED, "src/other.c": MOVED}
V2_TAKEN = {**V2_CARRY, "src/main.c": MOVED.replace("line 20\n", "line twenty\n")}
V2_CONFLICT = {**V2_TAKEN, "src/other.c": MOVED.replace("line 5\n", "line 5, changed\n")}


def add_v2(toy: PatchSet, tmp_path: Path, files: Mapping[str, str]) -> upstream.Upstream:
    sha256 = write_sdist(tmp_path / "links" / "toy-2.0.tar.gz", files)
    new = dataclasses.replace(toy.upstream("toy-1.0"), name="toy-2.0", version="2.0", sha256=sha256, tree="")
    toy.pin(new)
    return new


@pytest.mark.parametrize(
    ("files", "statuses"),
    [
        (V2_CARRY, ["applied", "applied", "applied"]),
        (V2_TAKEN, ["taken upstream", "applied", "applied"]),
    ],
)
def test_refresh_carries_and_drops_what_upstream_took(
    toy: PatchSet, tmp_path: Path, files: Mapping[str, str], statuses: list[str]
) -> None:
    new = add_v2(toy, tmp_path, files)
    results, written = patchset.refresh(toy, toy.upstream("toy-1.0"), new)
    assert [(result.name, result.status) for result in results] == list(zip(STACKED, statuses, strict=True))
    assert written
    new = toy.upstream()
    assert new.name == "toy-2.0"
    kept = [name for name, status in zip(STACKED, statuses, strict=True) if status == "applied"]
    assert [path.name for path in toy.series(new)] == kept
    assert patchset.check(toy, new) == []
    assert patchset.check(toy, toy.upstream("toy-1.0")) == []
    patchset.apply(toy, new, dest(toy))
    assert (dest(toy) / "src/main.c").read_text() == MOVED.replace("line 20\n", "LINE TWENTY\n")
    assert (dest(toy) / "src/other.c").read_text() == MOVED.replace("line 5\n", "line five\n")


def test_refresh_stops_at_a_conflict_and_writes_nothing(
    toy: PatchSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = add_v2(toy, tmp_path, V2_CONFLICT)
    pins = toy.pins.read_bytes()
    work = tmp_path / "work"
    arguments = ["refresh", "--patches", str(toy.root), "--from", "toy-1.0", "--to", "toy-2.0"]
    assert patchset.main([*arguments, "--dest", str(work)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(None, 1)[1] for line in lines[:3]] == ["taken upstream", "applied", "conflict  src/other.c"]
    assert not toy.folder(new).exists()
    assert toy.pins.read_bytes() == pins

    # the way out that it prints
    text = (work / "src/other.c").read_text()
    assert "<<<<<<<" in text
    (work / "src/other.c").write_text(MOVED.replace("line 5\n", "line five, changed\n"))
    git(work, "add", "--all")
    git(work, "-c", "core.editor=true", "cherry-pick", "--continue")
    assert patchset.export(toy, new, work) == ["toy-second.patch", "toy-new-file.patch"]
    assert patchset.check(toy, toy.upstream("toy-2.0")) == []


def test_refresh_keep_going_leaves_the_conflict_out(toy: PatchSet, tmp_path: Path) -> None:
    conflict = {**V2_CARRY, "src/main.c": MOVED.replace("line 20\n", "line 20!\n")}
    new = add_v2(toy, tmp_path, conflict)
    results, written = patchset.refresh(toy, toy.upstream("toy-1.0"), new, keep_going=True)
    assert [result.status for result in results] == ["conflict", "conflict", "applied"]
    assert results[0].files == ("src/main.c",)
    assert written
    assert [path.name for path in toy.series(new)] == ["toy-new-file.patch"]
    assert patchset.check(toy, toy.upstream("toy-2.0")) == []


def test_refresh_to_a_new_version_in_conflict_pins_it_for_the_export(toy: PatchSet, tmp_path: Path) -> None:
    write_sdist(tmp_path / "links" / "toy-2.0.tar.gz", V2_CONFLICT)
    work = tmp_path / "work"
    assert patchset.main(["refresh", "--patches", str(toy.root), "--version", "2.0"]) == 1
    assert [entry.name for entry in toy.upstreams()] == ["toy-1.0"]
    assert patchset.main(["refresh", "--patches", str(toy.root), "--version", "2.0", "--dest", str(work)]) == 1
    git(work, "checkout", "--quiet", "--theirs", "src/other.c")
    git(work, "add", "--all")
    git(work, "-c", "core.editor=true", "cherry-pick", "--continue")
    assert patchset.main(["export", "--patches", str(toy.root), "--upstream", "toy-2.0", "--tree", str(work)]) == 0
    assert patchset.check(toy, toy.upstream("toy-2.0")) == []


def test_refresh_to_a_version_that_is_not_pinned_yet(toy: PatchSet, tmp_path: Path) -> None:
    sha256 = write_sdist(tmp_path / "links" / "toy-2.0.tar.gz", V2_CARRY)
    assert patchset.main(["refresh", "--patches", str(toy.root), "--version", "2.0", "--commit", "def"]) == 0
    new = toy.upstream()
    assert (new.name, new.sha256, new.commit) == ("toy-2.0", sha256, "def")
    assert [entry.name for entry in toy.upstreams()] == ["toy-2.0", "toy-1.0"]
    assert patchset.check(toy, new) == []


def test_no_series_is_a_series_of_none(toy: PatchSet) -> None:
    for path in toy.folder(toy.upstream()).iterdir():
        path.unlink()
    assert patchset.main(["refresh", "--patches", str(toy.root)]) == 0
    assert patchset.check(toy, toy.upstream()) == []
    assert patchset.apply(toy, toy.upstream(), dest(toy))


def test_by_path_without_the_package(toy: PatchSet) -> None:
    script = Path(patchset.__file__)
    arguments = ["apply", "--upstream", "toy-1.0", "--dest", str(dest(toy)), "--patches", str(toy.root)]
    upstream.fetch(toy.upstream())
    # isolated from PYTHONPATH and site-packages: the cached copy must do
    done = subprocess.run([sys.executable, "-E", "-S", str(script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert patchset.tree_hash(dest(toy)) == toy.upstream().tree


def test_without_git_the_reason_is_given(toy: PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PatchSetError, match="git is needed"):
        patchset.apply(toy, toy.upstream(), dest(toy))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("toy-1.0/vendor/toy/link", tarfile.SYMTYPE),
        ("toy-1.0/vendor/toy/../../../out", tarfile.REGTYPE),
        ("toy-1.0/vendor/toy/fifo", tarfile.FIFOTYPE),
    ],
)
def test_extract_refuses_all_but_plain_files_inside(toy: PatchSet, tmp_path: Path, name: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    write_sdist(tmp_path / "toy-1.0.tar.gz", V1, info)
    (tmp_path / "tree").mkdir()
    with pytest.raises(PatchSetError, match="not a plain file"):
        upstream.extract(toy.upstream(), tmp_path / "toy-1.0.tar.gz", tmp_path / "tree")


def test_extract_names_a_damaged_archive(toy: PatchSet, tmp_path: Path) -> None:
    archive = tmp_path / "links" / "toy-1.0.tar.gz"
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(PatchSetError, match="cannot be unpacked"):
        upstream.extract(toy.upstream(), tmp_path / "cut.tar.gz", tmp_path)
    with pytest.raises(PatchSetError, match="holds no vendor/other"):
        upstream.extract(dataclasses.replace(toy.upstream(), subfolder="vendor/other"), archive, tmp_path)


def test_pip_settings_precedence(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = http://a/\nextra_index_url =\n    http://b/\n    file:///c\ncert = /x.pem\n"
        "[download]\nindex-url = http://d/\n[install]\nindex-url = http://ignored/\n"
    )
    base = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none"), "PIP_CONFIG_FILE": str(config)}
    found = upstream.pip_settings(base)
    assert (found.index_url, found.extra_index_urls, found.cert) == ("http://d/", ("http://b/", "file:///c"), "/x.pem")
    found = upstream.pip_settings({**base, "PIP_INDEX_URL": "http://e/", "PIP_FIND_LINKS": "/f g", "PIP_CERT": ""})
    assert (found.index_url, found.find_links, found.cert) == ("http://e/", ("/f", "g"), "/x.pem")
    nothing = upstream.pip_settings({**base, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "true"})
    assert (nothing.index_url, nothing.extra_index_urls, nothing.no_index) == ("", (), True)


@pytest.fixture
def index(toy: PatchSet, tmp_path: Path) -> Iterator[str]:
    """A simple index on localhost that holds toy 1.0, and nothing else."""
    project = tmp_path / "www" / "simple" / toy.upstream().package
    project.mkdir(parents=True)
    archive = tmp_path / "links" / "toy-1.0.tar.gz"
    archive.rename(project / archive.name)
    (project / "index.html").write_text(f'<a href="{archive.name}" data-requires-python="&lt;3">{archive.name}</a>')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def test_fetch_from_an_index_past_one_that_lacks_the_package(
    toy: PatchSet, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "absent").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://127.0.0.1:9/simple {index}")
    monkeypatch.setenv("MODERNBERT_LLAMA_CACHE", str(tmp_path / "cache2"))
    found = upstream.fetch(toy.upstream())
    assert hashlib.sha256(found.read_bytes()).hexdigest() == toy.upstream().sha256
    assert list((tmp_path / "cache2" / "sdist").iterdir()) == [found]
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    assert upstream.fetch(toy.upstream()) == found, "cached"
    with pytest.raises(PatchSetError, match=r"toy 3\.0 cannot be fetched"):
        upstream.fetch(dataclasses.replace(toy.upstream(), version="3.0"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "cannot be read"),
        ("[]", "at least one"),
        ('[{"name": "x"}]', "the keys must be"),
    ],
)
def test_bad_pins_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str) -> None:
    (tmp_path / "upstreams.json").write_text(text)
    assert patchset.main(["list", "--patches", str(tmp_path)]) == 1
    assert problem in capsys.readouterr().err
