"""Memory: what is free is what the machine has left, or what the container around this process has left of its limit."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from nearfar.training.holding import _malloc, held, holding
from nearfar.training.memory import free_memory, total_memory

GIB = 1 << 30


def system(root, groups, files, available=16 * GIB):
    """A tree as Linux shows it: the groups of this process, and the files below /sys/fs/cgroup."""
    told = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {available // 1024} kB\n", "proc/self/cgroup": groups}
    for name, text in (told | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def test_without_a_limit_it_is_what_the_machine_has_left(tmp_path):
    assert free_memory(system(tmp_path, "0::/a/b", {"a/b/memory.max": "max", "a/b/memory.current": "5"})) == 16 * GIB


@pytest.mark.parametrize("place", ["", "a/", "a/b/"])
def test_any_limit_around_the_process_counts_and_its_cache_of_files_is_free(tmp_path, place):
    files = {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}"}
    root = system(tmp_path, "0::/a/b", {f"{place}{name}": value for name, value in files.items()})
    assert free_memory(root) == 2 * GIB
    assert total_memory(root) == 4 * GIB


def test_the_first_version_of_control_groups_counts_as_well(tmp_path):
    files = {"limit_in_bytes": 2 * GIB, "usage_in_bytes": GIB, "stat": f"total_inactive_file {GIB // 2}"}
    files = {f"memory/docker/x/memory.{name}": value for name, value in files.items()}
    assert free_memory(system(tmp_path, "4:cpu:/docker/y\n3:memory,hugetlb:/docker/x", files)) == 1.5 * GIB


def test_a_group_above_its_limit_has_nothing_left(tmp_path):
    assert free_memory(system(tmp_path, "0::/", {"memory.max": GIB, "memory.current": 2 * GIB})) == 0


def test_a_machine_with_less_than_the_containers_limit_has_its_own(tmp_path):
    assert free_memory(system(tmp_path, "0::/", {"memory.max": 8 * GIB, "memory.current": 0}, available=GIB)) == GIB


def test_here_there_is_some():
    assert 0 < free_memory() < 1 << 42


def pages_asked_for(blocks=12, size=20 << 20):
    """Page faults of writing to blocks of memory, all of them freed at the end, a second time."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = [np.ones(size, np.uint8) for _ in range(blocks)]
        del taken
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


needs_malloc = pytest.mark.skipif(_malloc() is None, reason="no malloc here that can be told to hold what is freed")


@needs_malloc
def test_what_is_freed_stays_for_the_next_step_and_goes_back_afterwards():
    with holding():
        assert pages_asked_for() < 500
        assert held() > 200 << 20
        with holding():
            pass
        assert pages_asked_for() < 500  # another that ends does not end this one
    assert held() == 0
    assert pages_asked_for() > 5000  # large pages, where there are any, are fewer than 61,440


@needs_malloc
def test_what_the_environment_says_of_malloc_is_left_alone():
    told = "from nearfar.training.holding import _malloc; assert _malloc() is None"
    for name, value in (("MALLOC_TRIM_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=100")):
        subprocess.run([sys.executable, "-c", told], env=os.environ | {name: value}, check=True)
    subprocess.run(
        [sys.executable, "-c", told.replace("is None", "is not None")], env=os.environ | {"MALLOC_ARENA_MAX": "2"}, check=True
    )
