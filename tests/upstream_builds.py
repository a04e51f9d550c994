"""Packages to try upstreams with: ours, built against each pinned upstream, and the stock ones of the same releases.

All are folders under ``build``, kept between runs; ours are made anew when a source changes. They are imported in
processes of their own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from modernbert_llama.llama_compat.libraries import read_build
from modernbert_llama.patchset import PatchSet

ROOT = Path(__file__).parent.parent
PATCHES = PatchSet(ROOT / "patches")
# environment variables of the patches and their values: each brings back a plain path
SWITCHES = {
    "LLAMA_ATTN_DENSE": ("1",),
    "GGML_CPU_ATTN_F32": ("1",),
    "GGML_CPU_NO_PACK": ("1",),
    "GGML_CPU_NO_AMX": ("1",),
    "GGML_CPU_BF16_DOT": ("0", "1"),
    "GGML_CPU_DISABLE_FUSION": ("1",),
}
SETTINGS = [(switch, value) for switch, values in SWITCHES.items() for value in values]

# an editable installation would answer the import before any path
CUSTOMIZE = """
import os, sys
sites = [site for site in os.environ.get("UPSTREAM_SITES", "").split(os.pathsep) if site]
if any(os.path.isdir(os.path.join(site, "modernbert_llama")) for site in sites):
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__name__.startswith("ScikitBuild")]
sys.path[:0] = sites
"""


def sources() -> str:
    """A digest of everything that a build is made of, but for the patched tree, whose hash is in the pins."""
    digest = hashlib.sha256()
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml", ROOT / "patches" / "upstreams.json"]
    for folder, pattern in (("src", "*"), ("cmake", "*"), ("python/modernbert_llama", "**/*.py")):
        files += sorted((ROOT / folder).glob(pattern))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def built(upstream: str) -> Path:
    """The folder that holds our package, built against ``upstream`` as a user would."""
    folder = ROOT / "build" / "upstreams" / upstream
    site, stamp = folder / "site", folder / "sources"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == sources()):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(site)]
        command += [str(ROOT), "-C", f"cmake.define.UPSTREAM={upstream}", "-C", f"build-dir={folder / 'build'}"]
        environment = {key: value for key, value in os.environ.items() if key != "LLAMA_CPP_SOURCE_DIR"}
        subprocess.run(command, check=True, env=environment)
        stamp.write_text(sources(), encoding="utf-8")
    return site


def ours(upstream: str) -> tuple[Path, ...]:
    """The folders to find our package in; none if the one that is running was built against ``upstream``."""
    return () if read_build().source == upstream else (built(upstream),)


def cpu_flags() -> set[str]:
    """Of an x86 processor under Linux; elsewhere nothing is known."""
    info = Path("/proc/cpuinfo")
    return set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()


def installed(name: str, *requirements: str, options: Sequence[str] = (), env: dict[str, str] | None = None) -> Path:
    """A folder ``build/NAME`` for the path, filled once by pip."""
    folder = ROOT / "build" / name
    if not folder.is_dir():
        target = folder.with_name(f"{name}.partial")
        shutil.rmtree(target, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(target)]
        subprocess.run([*pip, *requirements], check=True, env=env)
        target.rename(folder)
    return folder


def stock(upstream: str) -> Path:
    """The package that the upstream comes from, with the libraries of its own build or wheel.

    Its own build leaves AMX out where the processor has it: some compilers break the Q8_0 products there, which ends
    the process (a patch of ours mends that).
    """
    pin = PATCHES.upstream(upstream)
    prefix = "stock" if pin.package == "llama-cpp-python" else f"stock-{pin.package}"
    name, requirement = f"{prefix}-{pin.version}", f"{pin.package}=={pin.version}"
    if "amx_int8" not in cpu_flags():
        return installed(name, requirement)
    flags = {key: f"{os.environ.get(key, '')} -U__AMX_INT8__".strip() for key in ("CFLAGS", "CXXFLAGS")}
    # pip keeps wheels by name and version alone
    return installed(f"{name}-no-amx", requirement, options=["--no-cache-dir"], env={**os.environ, **flags})


def environment(*sites: Path) -> dict[str, str]:
    """The variables of a process, and of its own processes, that finds ``sites`` before anything installed."""
    folder = ROOT / "build" / "upstreams" / "customize"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(CUSTOMIZE, encoding="utf-8")
    dropped = (*SWITCHES, "LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB")
    inherited = {key: value for key, value in os.environ.items() if key not in dropped}
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PYTHONPATH": path, "UPSTREAM_SITES": os.pathsep.join(map(str, sites))}


def drop_in(upstream: str) -> dict[str, str]:
    """The variables of a process whose ``llama_cpp`` is that of the release, on our libraries: as a user sets them."""
    variables = environment(*ours(upstream), stock(upstream))
    command = [sys.executable, "-m", "modernbert_llama.llama_compat"]
    lines = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.splitlines()
    return variables | dict(line.split("=", 1) for line in lines)


def run(program: str, *arguments: str | Path, env: dict[str, str]) -> str:
    """What a program prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout
