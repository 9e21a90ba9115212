"""The memory that this process can use: of the machine, its cgroups, and the limits of the process."""

import resource
from pathlib import Path

import pytest

from hyperfocal import machine
from hyperfocal.machine import free_memory, largest_memory, memory_bytes

GIB = 2**30


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """Return a function that sets the limits; the machine has 64 GiB, and the process uses 20 GiB and 2 GiB of data."""
    files = {"MEMORY_INFO": "SwapTotal: 1048576 kB\n", "STATUS": "VmSize:\t20971520 kB\nVmData:\t 2097152 kB\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, name, tmp_path / name)
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(machine, "_machine_bytes", lambda: 64 * GIB)

    def put(own="0::/\n", *, space=resource.RLIM_INFINITY, data=resource.RLIM_INFINITY, **of_cgroups):
        soft = {resource.RLIMIT_AS: space, resource.RLIMIT_DATA: data}
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft[kind], resource.RLIM_INFINITY))
        (tmp_path / "cgroup").write_text(own)
        for place, text in of_cgroups.items():
            path = Path(tmp_path / "cgroups", *place.split("__"))
            path = path.with_name(path.name.replace("_max", ".max").replace("limit_", "memory.limit_"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return put


def test_of_the_machine_with_its_swap_space(limits):
    limits()
    assert largest_memory() == free_memory() == (65 * GIB, "this machine")
    assert memory_bytes() == 64 * GIB


def test_what_is_used_counts_for_each_limit_of_the_process(limits):
    """The smallest limit is not always the one that leaves least."""
    limits(space=40 * GIB, data=30 * GIB)
    assert largest_memory() == (30 * GIB, "the limit `ulimit -d`")
    assert free_memory() == (20 * GIB, "the limit `ulimit -v`")  # 30 - 2 > 40 - 20
    limits(space=70 * GIB)
    assert largest_memory() == (65 * GIB, "this machine")
    assert free_memory() == (50 * GIB, "the limit `ulimit -v`")
    limits(space=40 * GIB, data=20 * GIB)
    assert free_memory() == (18 * GIB, "the limit `ulimit -d`")


def test_without_proc_nothing_is_subtracted(limits, monkeypatch, tmp_path):
    limits(space=40 * GIB)
    monkeypatch.setattr(machine, "STATUS", tmp_path / "missing")
    assert free_memory() == (40 * GIB, "the limit `ulimit -v`")


@pytest.mark.parametrize(
    ("own", "of_cgroups", "least"),
    [
        ("0::/a/b\n", {"a__memory_max": 8 * GIB, "a__b__memory_max": "max", "memory_max": 9 * GIB}, 8),
        ("0::/elsewhere\n", {"memory_max": 9 * GIB}, 9),  # of a container
        ("4:memory:/a\n0::/\n", {"memory__a__limit_in_bytes": 7 * GIB, "memory__limit_in_bytes": 2**63 - 4096}, 7),
        ("4:memory:/other/host/path\n0::/\n", {"memory__limit_in_bytes": 6 * GIB}, 6),
        ("", {"memory_max": 9 * GIB}, 9),
        ("0::/\n", {"memory_max": "max"}, 64),
    ],
)
def test_of_the_cgroups_above_this_process(limits, own, of_cgroups, least):
    limits(own, **of_cgroups)
    name = "this machine" if least == 64 else "the cgroup"
    assert largest_memory() == free_memory() == ((least + 1) * GIB, name)
    assert memory_bytes() == least * GIB
