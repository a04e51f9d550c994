"""Where llama.cpp comes from: a pinned folder of a source distribution, through the index that pip is configured for.

Standard library only, except that ``unearth`` is imported when a download is really needed. Imports nothing of the
package but its errors, so that the build can use it before anything is installed.
"""

from __future__ import annotations

import configparser
import dataclasses
import hashlib
import os
import re
import shutil
import ssl
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from modernbert_llama.errors import PatchSetError

__all__ = [
    "PipSettings",
    "Upstream",
    "cache_folder",
    "extract",
    "fetch",
    "file_sha256",
    "newest_version",
    "pip_settings",
]


@dataclasses.dataclass(frozen=True)
class Upstream:
    """One entry of ``upstreams.json``.

    ``subfolder`` is the folder of the source distribution that is used, ``exclude`` the paths below it that are not
    (a folder stands for all it holds), ``sha256`` that of the archive and ``tree`` the hash of the patched tree.
    """

    name: str
    package: str
    version: str
    commit: str
    sha256: str
    subfolder: str
    exclude: tuple[str, ...]
    tree: str

    @classmethod
    def from_json(cls, entry: object, where: str) -> Upstream:
        """Check one entry; ``where`` names it in the PatchSetError that a missing or mistyped key raises."""
        if not isinstance(entry, dict):
            raise PatchSetError(f"{where}: not an object")
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(entry) != sorted(names):
            raise PatchSetError(f"{where}: the keys must be {', '.join(names)}; found {', '.join(sorted(entry))}")
        for name in names:
            kind: type = list if name == "exclude" else str
            if not isinstance(entry[name], kind):
                raise PatchSetError(f"{where}: {name} must be a {kind.__name__}")
        return cls(**{**entry, "exclude": tuple(str(path) for path in entry["exclude"])})

    def to_json(self) -> dict[str, object]:
        """The entry as it stands in ``upstreams.json``."""
        return {**dataclasses.asdict(self), "exclude": list(self.exclude)}


@dataclasses.dataclass(frozen=True)
class PipSettings:
    """What pip is configured with, as far as finding a source distribution goes (``index_url`` "": pip's default)."""

    index_url: str
    extra_index_urls: tuple[str, ...]
    find_links: tuple[str, ...]
    trusted_hosts: tuple[str, ...]
    cert: str
    proxy: str
    timeout: float
    no_index: bool


def pip_settings(environ: Mapping[str, str] | None = None) -> PipSettings:
    """Read pip's configuration files and ``PIP_*`` variables, in pip's own order of precedence.

    pip itself is not asked, because an isolated build environment has none.
    """
    env = os.environ if environ is None else environ
    sections: dict[str, dict[str, str]] = {"global": {}, "download": {}}
    for path in _pip_config_files(env):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise PatchSetError(f"{path}: pip's configuration cannot be read: {error}") from error
        for section, values in sections.items():
            if parser.has_section(section):
                values.update({key.replace("_", "-"): value for key, value in parser.items(section) if value})
    merged = {**sections["global"], **sections["download"]}
    for key, value in env.items():
        if key.startswith("PIP_") and value:
            merged[key[4:].lower().replace("_", "-")] = value
    try:
        timeout = float(merged.get("timeout", merged.get("default-timeout", "60")))
    except ValueError as error:
        raise PatchSetError(f"pip's timeout is not a number: {error}") from error
    return PipSettings(
        index_url=merged.get("index-url", ""),
        extra_index_urls=tuple(merged.get("extra-index-url", "").split()),
        find_links=tuple(merged.get("find-links", "").split()),
        trusted_hosts=tuple(merged.get("trusted-host", "").split()),
        cert=merged.get("cert", ""),
        proxy=merged.get("proxy", ""),
        timeout=timeout,
        no_index=merged.get("no-index", "").lower() in {"1", "true", "yes", "on", "y", "t"},
    )


def _pip_config_files(env: Mapping[str, str]) -> list[Path]:
    chosen = env.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return []
    home = Path(env.get("HOME") or Path.home())
    if sys.platform == "win32":
        file = "pip.ini"
        system = [Path(env.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / file]
        user = [home / "pip" / file, Path(env.get("APPDATA", home)) / "pip" / file]
    elif sys.platform == "darwin":
        file = "pip.conf"
        support = Path("Library/Application Support/pip")
        system = ["/" / support / file]
        user = [home / ".pip" / file, home / support / file, home / ".config/pip" / file]
    else:
        file = "pip.conf"
        folders = [folder for folder in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep) if folder]
        system = [*(Path(folder) / "pip" / file for folder in folders), Path("/etc") / file]
        user = [home / ".pip" / file, Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / file]
    site = [Path(sys.prefix) / file]
    # as in pip, a configuration file that is named stands in for the user's
    return [*system, *site, Path(chosen)] if chosen and Path(chosen).is_file() else [*system, *user, *site]


def cache_folder() -> Path:
    """``MODERNBERT_LLAMA_CACHE``, else ``modernbert-llama`` in the user's cache folder."""
    chosen = os.environ.get("MODERNBERT_LLAMA_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modernbert-llama"


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(upstream: Upstream, sdist: Path | None = None) -> Path:
    """The source distribution of ``upstream``: ``sdist`` if given, else the cached copy, else a download.

    The file's sha256 is that of the pin (an empty pin accepts any). Raises PatchSetError.
    """
    if sdist is not None:
        if not sdist.is_file():
            raise PatchSetError(f"{sdist}: no such source distribution")
        _require_sha256(sdist, upstream, str(sdist))
        return sdist
    cached = cache_folder() / "sdist" / f"{upstream.package}-{upstream.version}.tar.gz"
    if cached.is_file() and upstream.sha256 in ("", file_sha256(cached)):
        return cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".download-") as temporary:
            _download(upstream, Path(temporary)).replace(cached)
    except OSError as error:
        raise PatchSetError(
            f"{upstream.package} {upstream.version} cannot be fetched into {cached}: {error}"
        ) from error
    return cached


def _require_sha256(path: Path, upstream: Upstream, origin: str) -> None:
    found = file_sha256(path)
    if upstream.sha256 not in ("", found):
        raise PatchSetError(f"{origin}: sha256 is {found}, but {upstream.name} is pinned to {upstream.sha256}")


def newest_version(package: str) -> str:
    """The newest release of ``package`` with a source distribution, in the places that pip is configured for.

    Raises PatchSetError.
    """
    found: list[str] = []
    problems: list[str] = []
    with _finders(f"the newest {package}") as (_, finders):
        for finder in finders:
            found += _newest(finder, package, problems)
    if not found:
        detail = "; ".join(problems) or "no source distribution where pip is configured to look"
        raise PatchSetError(f"the newest {package} cannot be looked up: {detail}")
    from packaging.version import Version  # comes with unearth

    return max(found, key=Version)


def _newest(finder: Callable[[], Any], package: str, problems: list[str]) -> list[str]:
    try:
        matches = finder().find_matches(package)  # newest first
        return [str(match.version) for match in matches if not match.link.is_wheel][:1]
    except Exception as error:  # the client raises whatever its transport raises
        problems.append(_without_credentials(error))
        return []


def _without_credentials(error: Exception) -> str:
    return re.sub(r"//[^/@\s]*@", "//****@", str(error))


@contextmanager
def _finders(wanted: str) -> Iterator[tuple[Any, list[Callable[[], Any]]]]:
    """An HTTP client, and what makes a finder for each place that pip is configured for.

    One place a finder, so that one that is unreachable or wrong does not hide the next.
    """
    try:
        from unearth import PackageFinder
        from unearth.auth import MultiDomainBasicAuth
        from unearth.fetchers import PyPIClient
    except ImportError as error:
        raise PatchSetError(
            f"{wanted} must be downloaded, which needs the 'unearth' package: "
            f"pip install unearth, or name the file with --sdist ({error})"
        ) from error
    settings = pip_settings()
    # a finder without sources knows the default index
    indexes = [] if settings.no_index else [settings.index_url or PackageFinder().sources[0]["url"]]
    indexes += [] if settings.no_index else settings.extra_index_urls
    local = [link for link in settings.find_links if "://" in link or Path(link).exists()]
    sources: list[dict[str, Any]] = [{"find_links": [link]} for link in local]
    sources += [{"index_urls": [url]} for url in indexes]
    options: dict[str, Any] = {"proxy": settings.proxy} if settings.proxy else {}
    client: Any = PyPIClient(  # its stated types differ from those that its own finder asks for
        trusted_hosts=settings.trusted_hosts,
        verify=ssl.create_default_context(cafile=settings.cert) if settings.cert else True,
        timeout=settings.timeout,
        follow_redirects=True,
        **options,
    )
    client.auth = MultiDomainBasicAuth(index_urls=indexes)
    with client:
        yield client, [partial(PackageFinder, client, ignore_compatibility=True, **source) for source in sources]


def _download(upstream: Upstream, folder: Path) -> Path:
    wanted = f"{upstream.package} {upstream.version}"
    problems: list[str] = []
    with _finders(wanted) as (client, finders):
        from unearth.preparer import download_link

        print(f"fetching {wanted}", file=sys.stderr)
        for number, finder in enumerate(finders):
            try:
                for match in finder().find_matches(f"{upstream.package}=={upstream.version}"):
                    if match.link.is_wheel:
                        continue
                    target = folder / "sdist"
                    shutil.copyfile(download_link(client, match.link, folder / str(number)), target)
                    _require_sha256(target, upstream, match.link.redacted)
                    return target
            except Exception as error:  # the client raises whatever its transport raises
                problems.append(_without_credentials(error))
    detail = "; ".join(problems) or f"no source distribution in the {len(finders)} places that pip is configured for"
    raise PatchSetError(f"{wanted} cannot be fetched: {detail}")


def extract(upstream: Upstream, archive: Path, folder: Path) -> None:
    """Write the pinned subfolder of ``archive`` into the empty ``folder``: regular files only, modes 644 or 755.

    Raises PatchSetError for a damaged archive, a path that leaves the folder, a link or device, an empty result.
    """
    prefix = PurePosixPath(upstream.subfolder).parts
    exclude = [PurePosixPath(path).parts for path in upstream.exclude]
    count = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts[1:]  # the first is the archive's own folder
                if parts[: len(prefix)] != prefix or member.isdir():
                    continue
                inner = parts[len(prefix) :]
                # `.git` is what a submodule leaves behind; it would lead git astray
                if ".git" in inner or any(inner[: len(path)] == path for path in exclude):
                    continue
                if not member.isreg() or not inner or ".." in inner or "\\" in member.name:
                    raise PatchSetError(f"{archive}: {member.name} is not a plain file inside the archive")
                source = tar.extractfile(member)
                assert source is not None
                path = folder.joinpath(*inner)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read())
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
                count += 1
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PatchSetError(f"{archive}: cannot be unpacked: {error}") from error
    if not count:
        raise PatchSetError(f"{archive}: holds no {upstream.subfolder}")
