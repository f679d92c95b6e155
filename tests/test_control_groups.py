"""Memory limits of containers and batch systems, as their files show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pypty.backend import control_groups

HUGE = str(2**63 - 4096)  # what version 1 writes without a limit


class Machine:
    """Files of /proc and of the control groups of one process."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.mounted: list[str] = []

    def mount(self, version: int, top: str, at: Path, options: str = "rw,memory") -> None:
        kind = "cgroup2" if version == 2 else "cgroup"
        place = str(at).replace(" ", "\\040")
        self.mounted.append(f"35 31 0:32 {top} {place} rw,nosuid shared:9 - {kind} {kind} {options}\n")
        (self.proc / "self/mountinfo").write_text("".join(self.mounted))

    def in_group(self, *lines: str) -> None:
        (self.proc / "self/cgroup").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(control_groups, "_PROC", made.proc)
    monkeypatch.setattr(control_groups, "_USUAL", tmp_path / "sys/fs/cgroup")
    return made


def group(folder: Path, **files: str | int) -> None:
    """The files of a group; double underscores stand for dots."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def group_1(folder: Path, limit: str | int, used: int, cached: int = 0, effective: str | int = HUGE) -> None:
    group(folder, memory__limit_in_bytes=limit, memory__usage_in_bytes=used)
    stat = f"cache {cached}\ntotal_inactive_file {cached}\nhierarchical_memory_limit {effective}\n"
    (folder / "memory.stat").write_text(stat)


def group_2(folder: Path, limit: str | int, used: int, cached: int = 0, high: str | int = "max") -> None:
    group(folder, memory__max=limit, memory__high=high, memory__current=used)
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_slurm_limits_job_step_and_task(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup"
    scope = "system.slice/slurmstepd.scope/job_77"
    group_2(top / scope, 5000, 3000, 500)  # all tasks of the job: 2500 left
    group_2(top / scope / "step_0", "max", 2900)
    group_2(top / scope / "step_0/user/task_0", "max", 1000)
    machine.mount(2, "/", top, "rw,nsdelegate")
    machine.in_group(f"0::/{scope}/step_0/user/task_0")
    assert control_groups.left_in_groups() == 2500
    group_2(top / scope / "step_0", 3000, 2900)
    assert control_groups.left_in_groups() == 100


def test_slurm_with_version_1(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup/memory"
    group_1(top, HUGE, 90_000)
    group_1(top / "slurm/uid_5/job_77", 5000, 3000, 500)
    group_1(top / "slurm/uid_5/job_77/step_0", HUGE, 2900)
    group_1(tmp_path / "sys/fs/cgroup/cpu/slurm/uid_5/job_77/step_0", 1, 1)
    machine.mount(1, "/", top)
    machine.mount(1, "/", tmp_path / "sys/fs/cgroup/cpu", "rw,cpu")
    machine.in_group(
        "4:memory:/slurm/uid_5/job_77/step_0", "3:cpu,cpuacct:/slurm/uid_5/job_77/step_0", "0::/elsewhere"
    )
    assert control_groups.left_in_groups() == 2500


def test_a_container_that_sees_its_own_group_as_the_root(machine: Machine, tmp_path: Path) -> None:
    """docker run --memory: the path is "/", and the limit is that of the mounted root."""
    top = tmp_path / "sys/fs/cgroup"
    group_2(top, 4000, 1000)
    machine.mount(2, "/", top)
    machine.in_group("0::/")
    assert control_groups.left_in_groups() == 3000
    # a process that was moved into a group beside the one that is mounted
    machine.in_group("0::/../other")
    assert control_groups.left_in_groups() == 3000


def test_a_container_with_the_paths_of_the_host(machine: Machine, tmp_path: Path) -> None:
    """Docker with version 1: the group is mounted, but its path is that of the host; groups inside it count, too."""
    top = tmp_path / "sys/fs/cgroup/memory"
    group_1(top, 4000, 1000)
    machine.mount(1, "/docker/abc", top)
    machine.in_group("7:hugetlb:/docker/abc", "6:memory:/docker/abc")
    assert control_groups.left_in_groups() == 3000
    group_1(top / "job", 1500, 1000)
    machine.in_group("6:memory:/docker/abc/job")
    assert control_groups.left_in_groups() == 500
    machine.in_group("6:memory:/docker/abcdef")  # not inside it, although the name begins alike
    assert control_groups.left_in_groups() == 3000


def test_version_1_knows_limits_of_groups_that_are_not_seen(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup/memory"
    group_1(top, HUGE, 1000, effective=1200)
    machine.mount(1, "/kubepods/pod1/c2", top)
    machine.in_group("6:memory:/kubepods/pod1/c2")
    assert control_groups.left_in_groups() == 200


def test_a_mount_at_an_unusual_place(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "cgroup of mine"
    group_2(top / "a", 700, 200)
    machine.mount(2, "/", top)
    machine.in_group("0::/a")
    assert control_groups.left_in_groups() == 500


def test_without_mountinfo_the_usual_places_are_read(machine: Machine, tmp_path: Path) -> None:
    group_2(tmp_path / "sys/fs/cgroup/a", 700, 200)
    machine.in_group("0::/a/b")
    assert control_groups.left_in_groups() == 500


def test_the_limit_at_which_processes_are_slowed_down_counts(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup"
    group_2(top / "a", "max", 200, high=600)
    machine.mount(2, "/", top)
    machine.in_group("0::/a")
    assert control_groups.left_in_groups() == 400


def test_more_is_used_than_allowed(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup"
    group_2(top, 600, 700)
    machine.mount(2, "/", top)
    machine.in_group("0::/")
    assert control_groups.left_in_groups() == 0


def test_statistics_may_be_missing(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup"
    group(top, memory__max=1000, memory__current=100)
    machine.mount(2, "/", top)
    machine.in_group("0::/")
    assert control_groups.left_in_groups() == 900


def test_no_limit(machine: Machine, tmp_path: Path) -> None:
    assert control_groups.left_in_groups() is None  # not Linux
    top = tmp_path / "sys/fs/cgroup/memory"
    group_1(top, HUGE, 1000)
    machine.mount(1, "/", top)
    (machine.proc / "self/mountinfo").write_text("nonsense\n" + "".join(machine.mounted))
    machine.in_group("6:memory:/", "0::/")
    assert control_groups.left_in_groups() is None
