"""The patches: list, apply, check, refresh, export.

``patches/upstreams.json`` pins the upstreams, ``patches/<upstream>/series`` orders that upstream's patches. Standard
library and git only. The build runs this file by its path, before the package exists; ``modernbert-llama patches``
forwards to :func:`main`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:
    # Run by path: the siblings are wanted without the package's __init__, which needs the compiled module.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _here]
    _package = types.ModuleType("modernbert_llama")
    _package.__path__ = [str(_here)]
    sys.modules["modernbert_llama"] = _package

from modernbert_llama.errors import PatchSetError
from modernbert_llama.gittree import STAMP, Git, folder_digests, hash_of, reason, tree_hash
from modernbert_llama.patchfile import TRAILERS, Patch, PatchSet, slug, write_atomically
from modernbert_llama.upstream import Upstream, extract, fetch, file_sha256

__all__ = [
    "Patch",
    "PatchSet",
    "Refreshed",
    "apply",
    "apply_git",
    "check",
    "default_root",
    "export",
    "main",
    "refresh",
    "slug",
    "tree_hash",
]

BASE = "upstream"  # the tag of the pristine commit in a tree made by `apply --git`


def default_root() -> Path:
    """The patches folder of the checkout that this file lies in."""
    root = Path(__file__).resolve().parents[2] / "patches"
    if not (root / "upstreams.json").is_file():
        raise PatchSetError("an installed package carries no patches: run this in a checkout, or pass --patches DIR")
    return root


def _series_hash(series: Sequence[Path]) -> str:
    return hashlib.sha256("".join(f"{file_sha256(path)}  {path.name}\n" for path in series).encode()).hexdigest()


@contextmanager
def _workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="patchset-") as name:
        tree = Path(name).resolve() / "tree"
        tree.mkdir()
        yield tree


def _pristine(upstream: Upstream, archive: Path, folder: Path) -> Git:
    extract(upstream, archive, folder)
    git = Git(folder)
    git.init("patches")
    git.commit_all(f"{upstream.name}, unpatched")
    git.run("tag", "--no-sign", BASE)
    git.run("config", "patchset.upstream", upstream.name)
    return git


def apply(patches: PatchSet, upstream: Upstream, dest: Path, sdist: Path | None = None) -> bool:
    """Make ``dest`` the patched tree; false when its stamp says that it already is.

    All or nothing: ``dest`` appears (or is replaced) by a rename once the tree's hash is right. A file that did not
    change keeps its time stamp, so that an incremental build stays one. Raises PatchSetError, also when ``dest`` holds
    something that this function did not make.
    """
    series = patches.series(upstream)
    missing = [path for path in series if not path.is_file()]
    if missing:
        raise PatchSetError(f"{missing[0]}: listed in series, but there is no such file")
    stamp = json.dumps({"upstream": upstream.name, "tree": upstream.tree, "series": _series_hash(series)}) + "\n"
    old = dest / STAMP
    if old.is_file() and old.read_text(encoding="utf-8") == stamp:
        return False
    _require_ours(dest)
    archive = fetch(upstream, sdist)
    with _beside(dest) as tree:
        extract(upstream, archive, tree)
        git = Git(tree)
        for path in series:
            done = git.run("apply", "--whitespace=nowarn", str(path.resolve()), check=False)
            if done.returncode:
                raise PatchSetError(f"{path.name}: does not apply to {upstream.name}: {reason(done)}")
        digests = folder_digests(tree)
        if hash_of(digests) != upstream.tree:
            raise PatchSetError(
                f"{upstream.name}: the patched tree's hash is {hash_of(digests)}, but the pin says "
                f"{upstream.tree or 'none'}; after editing patches run: refresh --from {upstream.name}"
            )
        if old.is_file():
            for name, digest in digests.items():
                before = dest / name
                if before.is_file() and file_sha256(before) == digest:
                    times = before.stat()
                    os.utime(tree / name, ns=(times.st_atime_ns, times.st_mtime_ns))
        (tree / STAMP).write_text(stamp, encoding="utf-8")
    return True


def apply_git(patches: PatchSet, upstream: Upstream, dest: Path, sdist: Path | None = None) -> None:
    """Make ``dest``, new or empty, a repository to work in: the tag "upstream", then one commit for each patch."""
    if dest.exists() and any(dest.iterdir()):
        raise PatchSetError(f"{dest}: not empty; a tree to work in is never overwritten")
    archive = fetch(upstream, sdist)
    with _beside(dest) as tree:
        git = _pristine(upstream, archive, tree)
        for path in patches.series(upstream):
            git.am(path)


def _require_ours(dest: Path) -> None:
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise PatchSetError(f"{dest}: not a folder")
    if dest.is_dir() and any(dest.iterdir()) and not (dest / STAMP).is_file():
        raise PatchSetError(f"{dest}: not empty and not made by 'apply'; remove it or choose another folder")


@contextmanager
def _beside(dest: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``dest`` at the end, or vanishes on an error."""
    dest = dest.resolve()
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as name:
        tree = Path(name) / "tree"
        tree.mkdir()
        yield tree
        if dest.exists():
            dest.rename(Path(name) / "old")
        tree.rename(dest)


def _exported(git: Git, commits: Sequence[str]) -> dict[str, bytes]:
    """File name to content, in order."""
    found: dict[str, bytes] = {}
    for commit in commits:
        name = f"{slug(git.text('log', '-1', '--format=%s', commit))}.patch"
        if name in found:
            raise PatchSetError(f"two commits would both be written to {name}: give one another subject")
        found[name] = git.format_patch(commit)
    return found


def _commits(git: Git, since: str) -> list[str]:
    merges = git.text("rev-list", "--merges", f"{since}..HEAD")
    if merges:
        raise PatchSetError(f"{git.folder}: a series is linear, but {merges.split()[0]} is a merge")
    return git.text("rev-list", "--reverse", f"{since}..HEAD").split()


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


def export(
    patches: PatchSet,
    upstream: Upstream,
    tree: Path | None = None,
    output: Path | None = None,
    sdist: Path | None = None,
) -> list[str]:
    """Write the commits above the tag "upstream" of ``tree`` as patch files; the names, in order.

    Without ``tree``, the committed series is applied and written again. Without ``output`` the upstream's own folder
    and its pin are updated. Raises PatchSetError when ``tree`` holds uncommitted changes or another upstream.
    """
    if tree is None:
        with _workspace() as folder:
            git = _pristine(upstream, fetch(upstream, sdist), folder)
            for path in patches.series(upstream):
                git.am(path, "--3way")
            return _export(patches, upstream, git, output)
    git = Git(tree)
    if not (tree / ".git").exists():
        raise PatchSetError(f"{tree}: no git repository; make one with: apply --git")
    made_for = git.run("config", "patchset.upstream", check=False).stdout.decode().strip()
    if made_for != upstream.name:
        raise PatchSetError(f"{tree}: made for {made_for or 'another purpose'}, not for {upstream.name}")
    if git.text("status", "--porcelain", "--untracked-files=no"):
        raise PatchSetError(f"{tree}: holds changes that are not committed")
    return _export(patches, upstream, git, output)


def _export(patches: PatchSet, upstream: Upstream, git: Git, output: Path | None) -> list[str]:
    files = _exported(git, _commits(git, BASE))
    _write_series(output or patches.folder(upstream), files)
    if output is None:
        patches.pin(dataclasses.replace(upstream, tree=hash_of(git.digests("HEAD"))))
    return list(files)


def check(patches: PatchSet, upstream: Upstream, sdist: Path | None = None) -> list[str]:
    """All that is wrong with an upstream's pin and patches, one sentence each; an empty list is a pass."""
    found = patches.problems(upstream)
    try:
        archive = fetch(upstream, sdist)
        with _workspace() as folder:
            git = _pristine(upstream, archive, folder)
            series = [path for path in dict.fromkeys(patches.series(upstream)) if path.is_file()]
            for path in series:
                git.am(path)
            digest = hash_of(git.digests("HEAD"))
            if digest != upstream.tree:
                found.append(f"the patched tree's hash is {digest}, but the pin says {upstream.tree or 'none'}")
            for path, commit in zip(series, _commits(git, BASE), strict=True):
                if git.format_patch(commit) != path.read_bytes():
                    found.append(f"{path.name}: an export differs from the file; run refresh or export")
    except PatchSetError as error:
        found.append(str(error))
    return found


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """What became of one patch: ``status`` is applied, taken upstream, conflict or not tried."""

    name: str
    status: str
    files: tuple[str, ...] = ()


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
    conflict, or with ``keep_going``, which leaves those out. ``dest`` keeps the work tree: after a stop it holds the
    conflict, to be resolved there and exported with ``export --tree`` (a new target is pinned for that).
    """
    if dest is not None and dest.exists() and any(dest.iterdir()):
        raise PatchSetError(f"{dest}: not empty")
    old, new = fetch(source, source_sdist), fetch(target, target_sdist)
    target = dataclasses.replace(target, sha256=target.sha256 or file_sha256(new))
    series = patches.series(source)
    with _workspace() as temporary:
        if dest is not None:
            dest.mkdir(parents=True, exist_ok=True)
        git = _pristine(source, old, dest or temporary)
        for path in series:
            git.am(path, "--3way")
        results, stopped = [Refreshed(path.name, "applied") for path in series], False
        if target.name != source.name:
            commits = _commits(git, BASE)
            _replace_base(git, target, new)
            results, stopped = _pick(git, [path.name for path in series], commits, keep_going)
        if stopped:
            if dest is not None:
                patches.pin(target)  # so that the export that ends the work by hand knows it
            return results, False
        _export(patches, target, git, None)
        return results, True


def _replace_base(git: Git, target: Upstream, archive: Path) -> None:
    """A second root commit, the new pristine tree, in the repository that holds the old tree and the patches."""
    git.run("branch", "--quiet", "--move", "before")
    git.run("checkout", "--quiet", "--orphan", "patches")
    git.run("rm", "-r", "--quiet", "--force", "--ignore-unmatch", ".")
    extract(target, archive, git.folder)
    git.commit_all(f"{target.name}, unpatched")
    git.run("tag", "--no-sign", "--force", BASE)
    git.run("config", "patchset.upstream", target.name)


def _pick(git: Git, names: Sequence[str], commits: Sequence[str], keep_going: bool) -> tuple[list[Refreshed], bool]:
    results: list[Refreshed] = []
    for index, (name, commit) in enumerate(zip(names, commits, strict=True)):
        done = git.run("cherry-pick", commit, check=False)
        if not done.returncode:
            results.append(Refreshed(name, "applied"))
            continue
        unmerged = git.text("diff", "--name-only", "--diff-filter=U").splitlines()
        if unmerged:
            results.append(Refreshed(name, "conflict", tuple(unmerged)))
            if not keep_going:
                return results + [Refreshed(rest, "not tried") for rest in names[index + 1 :]], True
        elif git.run("diff", "--quiet", "HEAD", check=False).returncode:
            raise PatchSetError(f"{name}: {reason(done)}")
        else:
            results.append(Refreshed(name, "taken upstream"))
        git.run("cherry-pick", "--skip")
    return results, False


def _list(patches: PatchSet, names: Sequence[str]) -> None:
    for upstream in [patches.upstream(name) for name in names] or patches.upstreams():
        series = patches.patches(upstream)
        print(f"{upstream.name}  (llama.cpp {upstream.commit or 'unknown'}, {len(series)} patches)")
        for patch in series:
            status = ", ".join(f"{trailer}: {patch.trailers.get(trailer, '?')}" for trailer in TRAILERS)
            added, removed = sum(change[1] for change in patch.files), sum(change[2] for change in patch.files)
            print(f"  {patch.path.name}  +{added} -{removed}  ({status})\n      {patch.subject}")
            for name, plus, minus in patch.files:
                print(f"      {name}  +{plus} -{minus}")


def _refresh(patches: PatchSet, args: argparse.Namespace) -> int:
    source = patches.upstream(args.source)
    if args.version:
        target = dataclasses.replace(
            source,
            name=f"{source.package}-{args.version}",
            version=args.version,
            commit=args.commit,
            sha256="",
            tree="",
        )
        known = [upstream for upstream in patches.upstreams() if upstream.name == target.name]
        target = known[0] if known else target
    else:
        target = patches.upstream(args.target or source.name)
    results, written = refresh(
        patches,
        source,
        target,
        keep_going=args.keep_going,
        dest=args.dest,
        source_sdist=args.sdist,
        target_sdist=args.to_sdist or (args.sdist if target.name == source.name else None),
    )
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        print(f"{result.name:{width}}  {result.status}  {' '.join(result.files)}".rstrip())
    conflicts = [result for result in results if result.status == "conflict"]
    if written:
        left_out = f", {len(conflicts)} left out" if conflicts else ""
        print(f"written: {patches.folder(target)} and the pin{left_out}")
        return 1 if conflicts else 0
    if args.dest:
        left = sum(result.status == "not tried" for result in results)
        rest = f", git cherry-pick before~{left}..before" if left else ""
        print(f"in {args.dest}: resolve, git add, git cherry-pick --continue{rest}; then")
        print(f"export --upstream {target.name} --tree {args.dest}")
    else:
        print("nothing written; --dest DIR keeps the tree with the conflict, --keep-going leaves the patch out")
    return 1


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--patches", type=Path, help="the patches folder (default: that of the checkout)")
    local = argparse.ArgumentParser(add_help=False)
    local.add_argument("--sdist", type=Path, help="a source distribution at hand, instead of a download")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("--upstream", help="which upstream (default: the newest)")
    parser = argparse.ArgumentParser(prog="modernbert-llama patches", description="The patches over llama.cpp.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|apply|check|refresh|export")

    verb = verbs.add_parser("list", parents=[common], help="each patch: status, files, lines")
    verb.add_argument("--upstream", help="only this upstream (default: all)")

    verb = verbs.add_parser("apply", parents=[common, local, one], help="fetch, unpack and patch a tree")
    verb.add_argument("--dest", type=Path, required=True, help="the folder to make")
    verb.add_argument("--git", action="store_true", help="make it a repository with one commit for each patch")

    verb = verbs.add_parser("check", parents=[common, local], help="verify pins, series, headers, trees and exports")
    verb.add_argument("--upstream", help="only this upstream (default: all)")

    verb = verbs.add_parser("refresh", parents=[common, local], help="carry a series to another upstream, or renew it")
    verb.add_argument("--from", dest="source", help="the upstream whose series is carried (default: the newest)")
    goal = verb.add_mutually_exclusive_group()
    goal.add_argument("--to", dest="target", help="an upstream in upstreams.json (default: the same)")
    goal.add_argument("--version", help="a release that is not in upstreams.json yet")
    verb.add_argument("--commit", default="", help="with --version: the llama.cpp commit, for the record")
    verb.add_argument("--to-sdist", type=Path, help="the new upstream's source distribution at hand")
    verb.add_argument("--keep-going", action="store_true", help="leave a patch in conflict out and go on")
    verb.add_argument("--dest", type=Path, help="keep the work tree here")

    verb = verbs.add_parser("export", parents=[common, local, one], help="write the patch files")
    verb.add_argument("--tree", type=Path, help="a repository made by apply --git (default: the committed series)")
    verb.add_argument("--output", type=Path, help="write here, and leave the pin alone")
    return parser


def _run(args: argparse.Namespace) -> int:
    patches = PatchSet(args.patches or default_root())
    if args.verb == "list":
        _list(patches, [args.upstream] if args.upstream else [])
    elif args.verb == "refresh":
        return _refresh(patches, args)
    elif args.verb == "check":
        failed = False
        for upstream in [patches.upstream(args.upstream)] if args.upstream else patches.upstreams():
            problems = check(patches, upstream, args.sdist)
            print(f"{upstream.name}: {f'problems: {len(problems)}' if problems else 'ok'}")
            for problem in problems:
                print(f"  {problem}")
            failed = failed or bool(problems)
        return int(failed)
    elif args.verb == "export":
        upstream = patches.upstream(args.upstream)
        for name in export(patches, upstream, args.tree, args.output, args.sdist):
            print(name)
    else:
        upstream = patches.upstream(args.upstream)
        if args.git:
            apply_git(patches, upstream, args.dest, args.sdist)
            print(f"{args.dest}: {upstream.name} as a repository; edit, commit, then: export --tree {args.dest}")
        elif apply(patches, upstream, args.dest, args.sdist):
            print(f"{args.dest}: {upstream.name}, patched")
        else:
            print(f"{args.dest}: up to date")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status: 0, or 1 with the problem on standard error."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except PatchSetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
