import psutil
import pytest

from manymask.training.limits import count_cores, measure_memory

MIB = 2**20


def write(root, **files):
    """Files of a system by their paths, with __ for /."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def make_system(root, groups, files):
    write(root, proc__self__cgroup=groups)
    write(root, **{f"sys__fs__cgroup__{name}": text for name, text in files.items()})
    return root


VERSION_1 = "9:name=systemd:/\n4:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n0::/system"


@pytest.mark.parametrize(
    ("groups", "files", "mib"),
    [
        ("0::/", {"memory_DOT_max": 300 * MIB}, 300),
        ("0::/job/step", {"job__memory_DOT_max": 200 * MIB, "job__step__memory_DOT_max": "max"}, 200),
        (VERSION_1, {"memory__docker__ab__memory_DOT_limit_in_bytes": 150 * MIB}, 150),
        (VERSION_1, {"memory__memory_DOT_limit_in_bytes": 120 * MIB}, 120),  # as a container sees it
    ],
)
def test_memory_of_a_container(tmp_path, groups, files, mib):
    assert measure_memory(make_system(tmp_path, groups, files)) == mib * MIB


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/", {"memory_DOT_max": "max", "cpu_DOT_max": "max 100000"}),
        (VERSION_1, {"memory__memory_DOT_limit_in_bytes": 2**63 - 4096, "cpu__cpu_DOT_cfs_quota_us": -1}),
        ("", {}),
    ],
)
def test_no_limits(tmp_path, groups, files):
    root = make_system(tmp_path, groups, files)
    assert measure_memory(root) == psutil.virtual_memory().total
    assert count_cores(root) == len(psutil.Process().cpu_affinity())


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/job", {"cpu_DOT_max": "max 100000", "job__cpu_DOT_max": "150000 100000"}),
        ("0::/", {"cpu_DOT_max": "50000 100000"}),
        (VERSION_1, {"cpu__cpu_DOT_cfs_quota_us": 100000, "cpu__cpu_DOT_cfs_period_us": 100000}),
    ],
)
def test_cores_of_a_container(tmp_path, groups, files):
    """One and a half, a half, and one: a loader process each takes a whole one."""
    assert count_cores(make_system(tmp_path, groups, files)) == 1


def test_this_machine():
    assert 1 <= count_cores() <= psutil.cpu_count()
    assert 0 < measure_memory() <= psutil.virtual_memory().total
