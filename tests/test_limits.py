"""Oracle: files like the kernel's. What is left is the least of what is free and what the container may still take."""

import pytest

from blocklocal._common import limits
from blocklocal._common.limits import available_bytes

MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    4000 kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 4,000 KiB left, in a control group /a/b of version 2 without a limit."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(limits, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path / "groups")
    return tmp_path


def limit(folder, most: str, use: int, names=("memory.max", "memory.current", "inactive_file"), cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{use}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def test_without_a_limit_it_is_what_the_machine_has_left(system):
    assert available_bytes() == 4000 * 1024
    limit(system / "groups" / "a" / "b", "max", 10)
    assert available_bytes() == 4000 * 1024


def test_a_limit_of_the_group_counts_and_the_file_cache_is_free(system):
    limit(system / "groups" / "a" / "b", "1000", 400, cache=50)
    assert available_bytes() == 1000 - 400 + 50


def test_a_limit_of_a_group_above_counts(system):
    limit(system / "groups" / "a" / "b", "1000", 400)
    limit(system / "groups" / "a", "900", 850)
    assert available_bytes() == 50


def test_a_group_above_its_limit_has_nothing_left(system):
    limit(system / "groups" / "a" / "b", "1000", 1400)
    assert available_bytes() == 0


def test_version_1_counts_too_and_its_huge_number_is_no_limit(system):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (system / "cgroup").write_text("5:cpu:/\n4:memory:/a/b\n0::/\n")
    limit(system / "groups" / "memory", str(2**63 - 4096), 10, names)
    assert available_bytes() == 4000 * 1024
    limit(system / "groups" / "memory" / "a" / "b", "1000", 400, names, cache=20)
    assert available_bytes() == 620


def test_a_system_that_does_not_say_gives_none(system):
    (system / "meminfo").unlink()
    (system / "cgroup").unlink()
    assert available_bytes() is None


def test_here_it_is_a_number_of_bytes_or_none():
    left = available_bytes()
    assert left is None or left > 2**20
