"""How many threads to use: the physical cores that this process may run on, within its cgroup's share of time.

Two threads on one core share its vector units, so that more threads than cores gain nothing here.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["default_threads"]


def default_threads(root: Path = Path("/")) -> int:
    """Physical cores in the affinity mask, at most the cgroup's quota, at least 1.

    ``root`` is the folder that holds ``sys`` and ``proc`` (the tests have one of their own). Where Linux's files are
    absent, every processor counts as a core.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    allowed: set[int] = affinity(0) if affinity else set(range(os.cpu_count() or 1))
    return max(1, min(_cores(root, allowed), _quota(root)))


def _cores(root: Path, allowed: set[int]) -> int:
    cores = set()
    for cpu in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        try:
            cores.add((_read(topology / "physical_package_id"), _read(topology / "core_id")))
        except OSError:
            cores.add(("cpu", str(cpu)))
    return len(cores)


def _quota(root: Path) -> int:
    """Processors' worth of time that the cgroup allows, rounded up; a large number where there is no limit."""
    unlimited = 1 << 16
    quotas = [float(unlimited)]
    for folder in _cgroup_folders(root):
        try:  # version 2: "quota period", or "max period"
            quota, period = _read(folder / "cpu.max").split()
            if quota != "max":
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            pass
        try:  # version 1: -1 for no limit
            us = int(_read(folder / "cpu.cfs_quota_us"))
            if us > 0:
                quotas.append(us / int(_read(folder / "cpu.cfs_period_us")))
        except (OSError, ValueError, ZeroDivisionError):
            pass
    return math.ceil(min(quotas))


def _cgroup_folders(root: Path) -> list[Path]:
    """The process's cgroup and those above it, in both versions; a limit on any of them holds."""
    mount = root / "sys/fs/cgroup"
    folders = [mount, mount / "cpu", mount / "cpu,cpuacct"]
    try:
        lines = _read(root / "proc/self/cgroup").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mount / controllers if controllers else mount
        inside = top / path.lstrip("/")
        folders += [inside, *(parent for parent in inside.parents if top in parent.parents)]
    return folders


def _read(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()
