"""How many cores and how much memory this process may use: those of the machine, or of the container that it is in.

Linux limits the processes of a container (Docker, Kubernetes, Slurm) by control groups, of version 1 or 2
(https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html there), whose limits are text files.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = "sys/fs/cgroup"


def count_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1; containers may be given parts of cores, which are rounded down.

    Args:
        root: Where the system's files are.
    """
    process = psutil.Process()
    # macOS cannot tie a process to some of the cores, and psutil has no such method there.
    cores = len(process.cpu_affinity() or ()) if hasattr(process, "cpu_affinity") else os.cpu_count()
    return max(int(min([cores or 1, *_list_quotas(root)])), 1)


def measure_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use.

    Args:
        root: Where the system's files are.
    """
    files = ("memory.max", "memory.limit_in_bytes")
    limits = [text for folder in _list_groups("memory", root) for file in files if (text := _read(folder / file))]
    # Version 2 writes "max" where there is no limit, version 1 a number that no machine has.
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdecimal())])


def _list_quotas(root: Path) -> Iterator[float]:
    """Cores by the time that each group on the way up may use of a period."""
    for folder in _list_groups("cpu", root):
        older = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota = _read(folder / "cpu.max").split() or [_read(folder / name) for name in older]
        if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal():  # "max" and -1 are no limit
            yield int(quota[0]) / max(int(quota[1]), 1)


def _list_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folder of this process's group and of each one above it: all of their limits hold."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        place = root / _CGROUPS / (controller if controllers else "")
        # In a container the path may be the host's, of which only the last folders on the way up are there.
        inner = Path(group.lstrip("/"))
        yield from (place / part for part in (inner, *inner.parents))


def _read(file: Path) -> str:
    """A small text file; empty where it is not there, or not for this process to read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
