"""The patch set on a toy upstream: stacked edits of one line, inside another git work tree, without a network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import mailbox
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
from modernbert_llama.mbox import Message
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


def am(folder: Path, mbox: Path) -> None:
    """What a person with a checkout of the upstream does; ``folder`` holds its files."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    identity = ["-c", "user.name=A Person", "-c", "user.email=person@example.com"]
    git(folder, *identity, "commit", "--quiet", "-m", "upstream")
    git(folder, *identity, "am", "--quiet", str(mbox))


def test_mbox_applies_with_git_am_and_gives_the_pinned_tree(
    toy: PatchSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pins, series = toy.pins.read_bytes(), (toy.folder(toy.upstream()) / "series").read_bytes()
    mbox = tmp_path / "new" / "toy.mbox"
    assert patchset.main(["export", "--patches", str(toy.root), "--mbox", str(mbox)]) == 0
    assert "toy.cover: the cover letter" in capsys.readouterr().out
    assert {path.name for path in mbox.parent.iterdir()} == {"toy.mbox", "toy.cover"}
    assert (toy.pins.read_bytes(), (toy.folder(toy.upstream()) / "series").read_bytes()) == (pins, series)

    checkout = tmp_path / "checkout"
    upstream.extract(toy.upstream(), upstream.fetch(toy.upstream()), checkout)
    am(checkout, mbox)
    assert patchset.tree_hash(checkout) == toy.upstream().tree
    log = git(checkout, "log", "--reverse", "--format=%an|%s|%b", "HEAD~3..HEAD").splitlines()
    subjects = ["toy : first", "toy : second", "toy : new file"]
    body = "Why: it was wrong. Test: run it."
    assert [line for line in log if line] == [f"modernbert-llama developers|{subject}|{body}" for subject in subjects]


def read_mails(path: Path) -> list[mailbox.mboxMessage]:
    box = mailbox.mbox(path, create=False)
    try:
        return list(box)
    finally:
        box.close()


def test_mbox_is_a_thread_under_a_cover_letter(toy: PatchSet, tmp_path: Path) -> None:
    series = toy.folder(toy.upstream()) / "series"
    series.write_text(f"# Toys for all\n# They were missing.\n{series.read_text()}")
    cover_path = patchset.export_mbox(toy, toy.upstream(), tmp_path / "toy.mbox")
    mails, (cover,) = read_mails(tmp_path / "toy.mbox"), read_mails(cover_path)
    assert [mail["Subject"] for mail in (cover, *mails)] == [
        "[PATCH 0/3] Toys for all",
        "[PATCH 1/3] toy : first",
        "[PATCH 2/3] toy : second",
        "[PATCH 3/3] toy : new file",
    ]
    assert len({mail["Message-ID"] for mail in (cover, *mails)}) == 4
    for mail in mails:
        assert mail["In-Reply-To"] == mail["References"] == cover["Message-ID"]
        assert mail["From"] == cover["From"]
        assert mail["From"].endswith("<modernbert-llama@users.noreply.github.com>")
    assert cover["Date"] == mails[-1]["Date"]
    text = str(cover.get_payload())
    assert text.startswith(
        "They were missing.\n\nApplies to llama.cpp abc, as toy 1.0 has it.\n\n1. toy : first\n\n   Why: "
    )
    assert re.search(r"^ src/main\.c +\| +2 \+-$", text, re.MULTILINE), "two patches, one line in all"
    assert " 3 files changed, 3 insertions(+), 2 deletions(-)\n create mode 100644 src/new.gen\n" in text
    assert b"Forwarded:" not in (tmp_path / "toy.mbox").read_bytes(), "which would not be true"


def test_mbox_has_the_same_bytes_wherever_it_is_made(
    toy: PatchSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, tree: Path | None = None) -> tuple[bytes, bytes]:
        cover = patchset.export_mbox(toy, toy.upstream(), tmp_path / name, tree)
        return (tmp_path / name).read_bytes(), cover.read_bytes()

    first = made("one.mbox")
    hostile = tmp_path / ".gitconfig"
    hostile.write_text("[diff]\nnoprefix = true\n[format]\nsignoff = true\nsubjectPrefix = X\nthread = deep\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(hostile))
    patchset.apply_git(toy, toy.upstream(), tmp_path / "again")
    assert made("two.mbox", tmp_path / "again") == first
    commit(tmp_path / "again", "third", {"src/main.c": "other\n"})
    assert made("three.mbox", tmp_path / "again") != first


def test_mbox_refuses_what_cannot_be(toy: PatchSet, tmp_path: Path) -> None:
    with pytest.raises(PatchSetError, match="the same name"):
        patchset.export_mbox(toy, toy.upstream(), tmp_path / "x.cover")
    for path in toy.folder(toy.upstream()).iterdir():
        path.unlink()
    with pytest.raises(PatchSetError, match="no patches to send"):
        patchset.export_mbox(toy, toy.upstream(), tmp_path / "x.mbox")
    assert not (tmp_path / "x.mbox").exists()


def test_messages_are_split_into_effect_figures_and_tests() -> None:
    body = """Slow.

Do this.

Measured: a table

  16  1 -> 2

and a remark.

How to test: run it.

Or so.

Forwarded: no
Applied-Upstream: no
"""
    found = Message.parse(body)
    assert found.effect == "Slow.\n\nDo this."
    assert found.figures == "Measured: a table\n\n  16  1 -> 2\n\nand a remark."
    assert found.tests == "How to test: run it.\n\nOr so."
    assert Message.parse("Only a reason.") == Message("Only a reason.", "", "")


REAL = PatchSet(patchset.default_root())


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in REAL.upstreams()])
def test_mbox_of_the_real_series(name: str, tmp_path: Path) -> None:
    entry = REAL.upstream(name)
    cover = patchset.export_mbox(REAL, entry, tmp_path / "series.mbox").read_text()
    checkout = tmp_path / "checkout"
    upstream.extract(entry, upstream.fetch(entry), checkout)
    am(checkout, tmp_path / "series.mbox")
    assert patchset.tree_hash(checkout) == entry.tree
    series = REAL.patches(entry)
    assert git(checkout, "rev-list", "--count", "HEAD").strip() == str(len(series) + 1)
    for number, patch in enumerate(series, 1):
        assert f"\n{number}. {patch.subject}\n" in cover
        figures = Message.parse(patch.body).figures
        assert all(line.strip() in cover for line in figures.splitlines())
    assert entry.commit in cover


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
V2_NEAR = {**V2_CARRY, "src/main.c": MOVED.replace("line 18\n", "line 18, changed\n")}
V2_PART = {**V2_CARRY, "src/other.c": MOVED.replace("line 5\n", "line five\n")}
V2_CONFLICT = {**V2_TAKEN, "src/other.c": MOVED.replace("line 5\n", "line 5, changed\n")}
V2_STACKED_CONFLICT = {**V2_CARRY, "src/main.c": MOVED.replace("line 20\n", "line 20!\n")}
V2_GONE = {name: text for name, text in V2_CARRY.items() if name != "src/other.c"} | {"src/new.gen": "theirs\n"}


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
        (V2_NEAR, ["merged", "merged", "applied"]),
        (V2_PART, ["applied", "applied", "merged"]),
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
    kept = [name for name, status in zip(STACKED, statuses, strict=True) if status != "taken upstream"]
    assert [path.name for path in toy.series(new)] == kept
    assert patchset.check(toy, new) == []
    assert patchset.check(toy, toy.upstream("toy-1.0")) == []
    patchset.apply(toy, new, dest(toy))
    main = files["src/main.c"].replace("line 20\n", "LINE TWENTY\n").replace("line twenty\n", "LINE TWENTY\n")
    assert (dest(toy) / "src/main.c").read_text() == main
    assert (dest(toy) / "src/other.c").read_text() == MOVED.replace("line 5\n", "line five\n")


def test_refresh_names_the_files_that_were_merged_or_taken(toy: PatchSet, tmp_path: Path) -> None:
    new = add_v2(toy, tmp_path, {**V2_NEAR, "src/other.c": V2_PART["src/other.c"]})
    results, _ = patchset.refresh(toy, toy.upstream("toy-1.0"), new)
    assert [(result.status, result.files, result.note) for result in results] == [
        ("merged", ("src/main.c",), ""),
        ("merged", ("src/main.c",), ""),
        ("merged", (), "taken upstream: src/other.c"),
    ]


def test_refresh_tries_all_and_tells_what_each_conflict_is(toy: PatchSet, tmp_path: Path) -> None:
    files = {**V2_GONE, "src/main.c": V2_STACKED_CONFLICT["src/main.c"]}
    results, written = patchset.refresh(toy, toy.upstream("toy-1.0"), add_v2(toy, tmp_path, files))
    assert not written
    assert [(result.status, result.files, result.note) for result in results] == [
        ("conflict", ("src/main.c",), ""),
        ("conflict", ("src/main.c",), "may come of leaving out toy-first.patch"),
        ("conflict", ("src/new.gen", "src/other.c"), "not in the new tree: src/other.c; new in both: src/new.gen"),
    ]


def resolve(work: Path, name: str, text: str) -> None:
    (work / name).write_text(text)
    git(work, "add", "--force", name)


def refresh_arguments(toy: PatchSet, work: Path, *arguments: str) -> list[str]:
    return ["refresh", "--patches", str(toy.root), *arguments, "--dest", str(work)]


def test_refresh_stops_at_a_conflict_writes_nothing_and_goes_on(
    toy: PatchSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sdist(tmp_path / "links" / "toy-2.0.tar.gz", V2_CONFLICT)
    pins = toy.pins.read_bytes()
    work = tmp_path / "work"
    assert patchset.main(refresh_arguments(toy, work, "--version", "2.0")) == 1
    output = capsys.readouterr().out
    assert re.findall(r"^(taken upstream|applied|conflict) +(\S+)$", output, re.MULTILINE) == [
        ("taken upstream", "toy-first.patch"),
        ("applied", "toy-second.patch"),
        ("conflict", "toy-new-file.patch"),
    ]
    assert " in src/other.c\n" in output
    assert "3 patches: 1 taken upstream, 1 applied, 1 conflict\n" in output
    assert f"refresh --continue --dest {work}\n" in output
    assert not toy.folder(dataclasses.replace(toy.upstream(), name="toy-2.0")).exists()
    assert toy.pins.read_bytes() == pins

    # the way out that it prints, and what is in it that can go wrong
    text = (work / "src/other.c").read_text()
    assert "<<<<<<<" in text
    assert "|||||||" in text, "the old upstream's side is shown"
    go_on = refresh_arguments(toy, work, "--continue")
    assert patchset.main(go_on) == 1
    assert "still in conflict: src/other.c" in capsys.readouterr().err
    resolve(work, "src/other.c", text)
    assert patchset.main(go_on) == 1
    assert "conflict markers are left in src/other.c" in capsys.readouterr().err
    resolved = MOVED.replace("line 5\n", "line five, changed\n")
    (work / "src/other.c").write_text(resolved)
    assert patchset.main(go_on) == 1
    assert "not staged" in capsys.readouterr().err
    assert toy.pins.read_bytes() == pins
    resolve(work, "src/other.c", resolved)
    assert patchset.main(go_on) == 0
    assert "resolved  toy-new-file.patch\n" in capsys.readouterr().out
    assert [entry.name for entry in toy.upstreams()] == ["toy-2.0", "toy-1.0"]
    assert [path.name for path in toy.series(toy.upstream())] == ["toy-second.patch", "toy-new-file.patch"]
    assert patchset.check(toy, toy.upstream()) == []
    assert patchset.main(go_on) == 1
    assert "no refresh stopped" in capsys.readouterr().err


def test_refresh_goes_on_to_the_next_conflict_and_past_what_is_left_out(toy: PatchSet, tmp_path: Path) -> None:
    new = add_v2(toy, tmp_path, {**V2_STACKED_CONFLICT, "src/other.c": V2_CONFLICT["src/other.c"]})
    work = tmp_path / "work"
    results, written = patchset.refresh(toy, toy.upstream("toy-1.0"), new, dest=work)
    assert [result.status for result in results] == ["conflict", "conflict", "conflict"]
    # resolved so that the next one applies
    resolve(work, "src/main.c", MOVED.replace("line 20\n", "line twenty\n"))
    results, written, _ = patchset.resume(toy, work)
    assert [result.status for result in results] == ["resolved", "applied", "conflict"]
    assert not written
    # upstream's side everywhere: nothing is left of the third but its new file, which is taken back too
    git(work, "rm", "--quiet", "--force", "src/new.gen")
    resolve(work, "src/other.c", V2_CONFLICT["src/other.c"])
    results, written, target = patchset.resume(toy, work)
    assert [result.status for result in results] == ["left out"]
    assert written
    assert target.name == new.name
    assert [path.name for path in toy.series(new)] == ["toy-first.patch", "toy-second.patch"]
    assert patchset.check(toy, toy.upstream("toy-2.0")) == []


@pytest.mark.parametrize(("by_hand", "status"), [("--continue", "resolved"), ("--skip", "left out")])
def test_refresh_goes_on_after_git_was_used_by_hand(toy: PatchSet, tmp_path: Path, by_hand: str, status: str) -> None:
    new = add_v2(toy, tmp_path, V2_CONFLICT)
    work = tmp_path / "work"
    patchset.refresh(toy, toy.upstream("toy-1.0"), new, dest=work)
    git(work, "checkout", "--quiet", "--theirs", "src/other.c")
    git(work, "add", "--all")
    git(work, "-c", "core.editor=true", "cherry-pick", by_hand)
    (work / "src/main.c").write_text("stray\n")
    with pytest.raises(PatchSetError, match="not committed"):
        patchset.resume(toy, work)
    git(work, "checkout", "--quiet", "src/main.c")
    results, written, _ = patchset.resume(toy, work)
    assert (results[0].status, written) == (status, True)
    assert patchset.check(toy, toy.upstream("toy-2.0")) == []


def test_refresh_keep_going_leaves_the_conflict_out(toy: PatchSet, tmp_path: Path) -> None:
    new = add_v2(toy, tmp_path, V2_STACKED_CONFLICT)
    results, written = patchset.refresh(toy, toy.upstream("toy-1.0"), new, keep_going=True)
    assert [result.status for result in results] == ["conflict", "conflict", "applied"]
    assert results[0].files == ("src/main.c",)
    assert written
    assert [path.name for path in toy.series(new)] == ["toy-new-file.patch"]
    assert patchset.check(toy, toy.upstream("toy-2.0")) == []


def test_refresh_to_a_version_that_is_not_pinned_yet(toy: PatchSet, tmp_path: Path) -> None:
    sha256 = write_sdist(tmp_path / "links" / "toy-2.0.tar.gz", V2_CARRY)
    assert patchset.main(["refresh", "--patches", str(toy.root), "--version", "2.0", "--commit", "def"]) == 0
    new = toy.upstream()
    assert (new.name, new.sha256, new.commit) == ("toy-2.0", sha256, "def")
    assert [entry.name for entry in toy.upstreams()] == ["toy-2.0", "toy-1.0"]
    assert patchset.check(toy, new) == []


def test_refresh_back_leaves_the_newest_the_newest(toy: PatchSet, tmp_path: Path) -> None:
    toy.pin(dataclasses.replace(toy.upstream(), name="other-7", package="other", version="7"))
    for version in ("0.9", "0.10"):
        write_sdist(tmp_path / "links" / f"toy-{version}.tar.gz", V2_CARRY)
        assert patchset.main(["refresh", "--patches", str(toy.root), "--version", version]) == 0
    assert [entry.name for entry in toy.upstreams()] == ["toy-1.0", "toy-0.10", "toy-0.9", "other-7"]


def test_refresh_to_the_latest_release(
    toy: PatchSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["refresh", "--patches", str(toy.root), "--version", "latest"]
    assert patchset.main(arguments) == 1
    assert "toy-1.0 is the newest release already" in capsys.readouterr().err
    for version in ("2.0", "10.0", "3.0"):
        write_sdist(tmp_path / "links" / f"toy-{version}.tar.gz", V2_CARRY)
    (tmp_path / "links" / "toy-11.0-py3-none-any.whl").write_bytes(b"a wheel is no source")
    assert patchset.main(arguments) == 0
    assert [entry.name for entry in toy.upstreams()] == ["toy-10.0", "toy-1.0"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "absent"))
    assert patchset.main(arguments) == 1
    assert "the newest toy cannot be looked up" in capsys.readouterr().err


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


def test_the_build_is_of_the_newest_upstream() -> None:
    root = Path(__file__).parent.parent
    newest = PatchSet(root / "patches").upstreams()[0].name
    for file, pattern in {
        "CMakeLists.txt": r'^set\(UPSTREAM "([^"]+)"',
        "pyproject.toml": r'^cmake\.define\.UPSTREAM = "([^"]+)"',
    }.items():
        found = re.search(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert found, file
        assert found[1] == newest, file
