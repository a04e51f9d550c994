"""An upstream as a git repository, its patches as commits, and the commits as patch files."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from modernbert_llama.errors import PatchSetError
from modernbert_llama.gittree import Git, hash_of
from modernbert_llama.patchfile import PatchSet, slug, write_atomically
from modernbert_llama.upstream import Upstream, extract

__all__ = ["BASE", "commits", "export_commits", "pristine", "workspace"]

BASE = "upstream"  # the tag of the pristine commit


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder that vanishes at the end."""
    with tempfile.TemporaryDirectory(prefix="patchset-") as name:
        tree = Path(name).resolve() / "tree"
        tree.mkdir()
        yield tree


def pristine(upstream: Upstream, archive: Path, folder: Path) -> Git:
    """Make the empty ``folder`` a repository of ``upstream`` as it is, with the tag ``BASE``."""
    extract(upstream, archive, folder)
    git = Git(folder)
    git.init("patches")
    git.commit_all(f"{upstream.name}, unpatched")
    git.run("tag", "--no-sign", BASE)
    git.run("config", "patchset.upstream", upstream.name)
    return git


def commits(git: Git, since: str = BASE) -> list[str]:
    """The commits after ``since``, oldest first. Raises PatchSetError when there is a merge among them."""
    merges = git.text("rev-list", "--merges", f"{since}..HEAD")
    if merges:
        raise PatchSetError(f"{git.folder}: a series is linear, but {merges.split()[0]} is a merge")
    return git.text("rev-list", "--reverse", f"{since}..HEAD").split()


def export_commits(patches: PatchSet, upstream: Upstream, git: Git, output: Path | None) -> list[str]:
    """Write the commits as patch files into ``output``, or into the upstream's own folder and its pin; the names."""
    files = _exported(git, commits(git))
    _write_series(output or patches.folder(upstream), files)
    if output is None:
        patches.pin(dataclasses.replace(upstream, tree=hash_of(git.digests("HEAD"))))
    return list(files)


def _exported(git: Git, chosen: Sequence[str]) -> dict[str, bytes]:
    """File name to content, in order."""
    found: dict[str, bytes] = {}
    for commit in chosen:
        name = f"{slug(git.text('log', '-1', '--format=%s', commit))}.patch"
        if name in found:
            raise PatchSetError(f"two commits would both be written to {name}: give one another subject")
        found[name] = git.format_patch(commit)
    return found


def _write_series(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    series = folder / "series"
    lines = series.read_text(encoding="utf-8").splitlines() if series.is_file() else []
    comments = [line for line in lines if line.startswith("#")]
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_atomically(series, "".join(f"{line}\n" for line in [*comments, *files]).encode())
    for path in folder.glob("*.patch"):
        if path.name not in files:
            path.unlink()
