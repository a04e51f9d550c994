"""Carrying a series to another upstream: a three-way merge for each patch, and what became of each."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from modernbert_llama.errors import PatchSetError
from modernbert_llama.gittree import Git, reason
from modernbert_llama.patchfile import PatchSet
from modernbert_llama.upstream import Upstream, extract, fetch, file_sha256
from modernbert_llama.worktree import BASE, commits, export_commits, pristine, workspace

__all__ = ["Refreshed", "refresh", "resume", "summary"]

STATE = "patchset-refresh.json"  # in .git of a work tree that waits for a conflict to be resolved

# what `git apply` says of a file
_REFUSED = re.compile(r"^error: (.*): (?:patch does not apply|(?:does not|already) exists? in index)$", re.MULTILINE)

Todo = list[tuple[str, str]]  # the name of a patch, and its commit on the old upstream


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """What became of one patch.

    ``status``: "applied" as it is, "merged" three ways, "taken upstream" (nothing of it was left, it is dropped),
    "conflict", and by hand "resolved" or "left out". ``files``: those that were merged or are in conflict.
    """

    name: str
    status: str
    files: tuple[str, ...] = ()
    note: str = ""


def refresh(
    patches: PatchSet,
    source: Upstream,
    target: Upstream,
    *,
    keep_going: bool = False,
    dest: Path | None = None,
    source_sdist: Path | None = None,
    target_sdist: Path | None = None,
) -> tuple[list[Refreshed], bool]:
    """Carry the series of ``source`` over to ``target`` by a three-way merge for each patch.

    Returns what became of each patch, and whether the target's folder and pin were written: only when no patch was in
    conflict, or with ``keep_going``, which leaves those out. All patches are tried: what follows a conflict is tried
    without the patch in conflict. ``dest`` keeps the work tree: after a stop it holds the first conflict, to be
    resolved there before :func:`resume`. Raises PatchSetError.
    """
    if dest is not None and dest.exists() and any(dest.iterdir()):
        raise PatchSetError(f"{dest}: not empty")
    old, new = fetch(source, source_sdist), fetch(target, target_sdist)
    target = dataclasses.replace(target, sha256=target.sha256 or file_sha256(new))
    series = patches.series(source)
    with workspace() as temporary:
        if dest is not None:
            dest.mkdir(parents=True, exist_ok=True)
        git = pristine(source, old, dest or temporary)
        for path in series:
            git.am(path, "--3way")
        if target.name == source.name:
            export_commits(patches, target, git, None)
            return [Refreshed(path.name, "applied") for path in series], True
        todo = list(zip([path.name for path in series], commits(git), strict=True))
        _replace_base(git, target, new)
        return _go_on(patches, target, git, todo, keep_going=keep_going)


def resume(patches: PatchSet, dest: Path, *, keep_going: bool = False) -> tuple[list[Refreshed], bool, Upstream]:
    """Go on after the conflict in ``dest`` was resolved and staged (or committed, or skipped).

    Returns as :func:`refresh`, and the target. Raises PatchSetError when the conflict is still there.
    """
    file = dest / ".git" / STATE
    if not file.is_file():
        raise PatchSetError(f"{dest}: no refresh stopped at a conflict here")
    state = json.loads(file.read_text(encoding="utf-8"))
    target = Upstream.from_json(state["target"], str(file))
    git = Git(dest)
    (name, _), *todo = [(str(name), str(commit)) for name, commit in state["todo"]]
    if git.run("rev-parse", "--verify", "--quiet", "CHERRY_PICK_HEAD", check=False).returncode == 0:
        _require_resolved(git)
        # an empty commit is what is left when upstream's side was taken everywhere
        same = git.run("diff", "--cached", "--quiet", "HEAD", check=False).returncode == 0
        git.run("cherry-pick", "--skip" if same else "--continue")
    elif git.text("status", "--porcelain", "--untracked-files=no"):
        raise PatchSetError(f"{dest}: holds changes that are not committed")
    status = "left out" if git.text("rev-parse", "HEAD") == state["head"] else "resolved"
    file.unlink()
    results, written = _go_on(patches, target, git, todo, keep_going=keep_going)
    return [Refreshed(name, status), *results], written, target


def _require_resolved(git: Git) -> None:
    unmerged = list(_unmerged(git))
    if unmerged:
        raise PatchSetError(f"{git.folder}: still in conflict: {' '.join(unmerged)}; resolve, then git add")
    if git.run("diff", "--quiet", check=False).returncode:
        raise PatchSetError(f"{git.folder}: holds changes that are not staged: git add")
    checked = git.run("diff", "--cached", "--check", check=False).stdout.decode(errors="replace")
    markers = sorted(set(re.findall(r"^(.*):\d+: leftover conflict marker", checked, re.MULTILINE)))
    if markers:
        raise PatchSetError(f"{git.folder}: conflict markers are left in {' '.join(markers)}")


def _replace_base(git: Git, target: Upstream, archive: Path) -> None:
    """A second root commit, the new pristine tree, in the repository that holds the old tree and the patches."""
    git.run("branch", "--quiet", "--move", "before")
    git.run("checkout", "--quiet", "--orphan", "patches")
    git.run("rm", "-r", "--quiet", "--force", "--ignore-unmatch", ".")
    extract(target, archive, git.folder)
    git.commit_all(f"{target.name}, unpatched")
    git.run("tag", "--no-sign", "--force", BASE)
    git.run("config", "patchset.upstream", target.name)


def _go_on(
    patches: PatchSet, target: Upstream, git: Git, todo: Todo, *, keep_going: bool
) -> tuple[list[Refreshed], bool]:
    results: list[Refreshed] = []
    left_out: dict[str, str] = {}  # a file, and the first patch in conflict that changes it
    stop: tuple[int, str] | None = None
    for index, (name, commit) in enumerate(todo):
        head = git.text("rev-parse", "HEAD")
        result = _pick(git, name, commit)
        if result.status == "conflict":
            stop = stop or (index, head)
            earlier = [left_out[path] for path in result.files if path in left_out]
            if earlier:
                note = f"may come of leaving out {earlier[0]}"
                result = dataclasses.replace(result, note="; ".join(filter(None, [result.note, note])))
            left_out = dict.fromkeys(_changed(git, commit), name) | left_out
        results.append(result)
    if stop and not keep_going:
        index, head = stop
        git.run("reset", "--quiet", "--hard", head)
        git.run("cherry-pick", todo[index][1], check=False)
        state = {"target": target.to_json(), "head": head, "todo": todo[index:]}
        (git.folder / ".git" / STATE).write_text(json.dumps(state), encoding="utf-8")
        return results, False
    export_commits(patches, target, git, None)
    return results, True


def _pick(git: Git, name: str, commit: str) -> Refreshed:
    checked = git.run("apply", "--cached", "--check", "--whitespace=nowarn", check=False, data=git.format_patch(commit))
    done = git.run("cherry-pick", commit, check=False)
    if not done.returncode:
        moved = _REFUSED.findall(checked.stderr.decode(errors="replace"))
        taken = sorted(set(_changed(git, commit)) - set(_changed(git, "HEAD")))
        note = f"taken upstream: {' '.join(taken)}" if taken else ""
        merged = checked.returncode or taken
        return Refreshed(name, "merged" if merged else "applied", tuple(sorted(set(moved) - set(taken))), note)
    unmerged = _unmerged(git)
    if not unmerged and git.run("diff", "--quiet", "HEAD", check=False).returncode:
        raise PatchSetError(f"{name}: {reason(done)}")
    git.run("cherry-pick", "--skip")
    if not unmerged:
        return Refreshed(name, "taken upstream")
    gone = [path for path, stages in unmerged.items() if "2" not in stages]
    added = [path for path, stages in unmerged.items() if "1" not in stages]
    notes = [f"not in the new tree: {' '.join(gone)}"] if gone else []
    notes += [f"new in both: {' '.join(added)}"] if added else []
    return Refreshed(name, "conflict", tuple(unmerged), "; ".join(notes))


def _changed(git: Git, commit: str) -> list[str]:
    return git.text("diff-tree", "-r", "--no-commit-id", "--name-only", "--no-renames", commit).splitlines()


def _unmerged(git: Git) -> dict[str, str]:
    """Each file in conflict, and the sides that have it: 1 the old upstream, 2 the new one, 3 the patch."""
    found: dict[str, str] = {}
    for entry in filter(None, git.text("ls-files", "--unmerged", "-z").split("\0")):
        fields, _, path = entry.partition("\t")
        found[path] = found.get(path, "") + fields.split()[2]
    return found


def summary(results: Sequence[Refreshed]) -> str:
    """How many patches ended how: "3 patches: 2 applied, 1 conflict"."""
    statuses = [result.status for result in results]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(results)} patches: {counts}" if results else "no patches"
