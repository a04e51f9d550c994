"""The default number of threads, on trees of /sys and /proc made up here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from modernbert_llama.threads import default_threads


def machine(root: Path, cpus: dict[int, tuple[int, int]], files: dict[str, str]) -> Path:
    """``cpus`` maps a processor to its package and core."""
    for cpu, (package, core) in cpus.items():
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


EIGHT = {cpu: (cpu // 4, cpu % 2) for cpu in range(8)}  # two packages of two cores of two threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
@pytest.mark.parametrize(
    ("affinity", "files", "expected"),
    [
        (range(8), {}, 4),
        ([0, 2], {}, 1),  # two threads of one core
        ([0, 4], {}, 2),  # the same core number in two packages
        (range(8), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 4),
        (range(8), {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        (range(8), {"sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        (range(8), {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
        (
            range(8),
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        # a limit on a parent of the process's own group
        (range(8), {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2),
        (range(8), {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "100000 100000"}, 1),
        (range(8), {"sys/fs/cgroup/cpu.max": "nonsense"}, 4),
    ],
)
def test_default_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affinity: list[int], files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(affinity))
    assert default_threads(machine(tmp_path, EIGHT, files)) == expected


def test_this_machine() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
