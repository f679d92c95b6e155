"""What control groups (containers, batch systems) leave of the memory of this machine; versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_USUAL = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60
"""Version 1 writes a huge number where there is no limit."""


def left_in_groups() -> int | None:
    """Bytes that the control groups of this process still allow; None without a limit.

    The smallest of the group of the process and of all groups above it that can be seen: Slurm limits job, step and
    task, and a container sees its own groups only, as the root.
    """
    left = [_left_in(folder) for folder in _folders()]
    return min((size for size in left if size is not None), default=None)


def _folders() -> list[Path]:
    """Folders of the group of this process and of those above it, without repetition."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
    mounts = list(_mounts())
    folders: dict[Path, None] = {}
    for line in lines:
        # "hierarchy:controllers:path"; version 2 names no controllers
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        places = [(top, at) for kind, top, at in mounts if kind == version] or [
            ("/", _USUAL / "memory" if controllers else _USUAL)
        ]
        for top, at in places:
            folders |= dict.fromkeys(_upwards(path, top, at))
    return list(folders)


def _upwards(path: str, top: str, at: Path) -> Iterator[Path]:
    """Folders of a group and of those above it.

    Parameters
    ----------
    path : of the group, as /proc/self/cgroup has it
    top, at : the group that is mounted, and where; a container may see its own group as the root, or only a part of
        the tree, with the paths of the host
    """
    inside = "" if path == top else path.removeprefix(top.rstrip("/") + "/")
    if inside.startswith(
        ("/", "..")
    ):  # outside of what is mounted: a group that is not seen, below the one that is
        inside = ""
    here = at / inside
    while here != at:
        yield here
        here = here.parent
    yield at


def _mounts() -> Iterator[tuple[int, str, Path]]:
    """Version, mounted group and place of every mounted tree of groups that limits memory."""
    try:
        lines = (_PROC / "self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        # "id parent major:minor root mount-point options [fields] - type source super-options"
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            yield 2 if kind[0] == "cgroup2" else 1, _plain(fields[3]), Path(_plain(fields[4]))


def _plain(text: str) -> str:
    """A path of mountinfo, which writes blanks as octal numbers."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _left_in(folder: Path) -> int | None:
    """Bytes that one group still allows; None without a limit.

    Cached pages of files count as used, but the kernel frees them when memory is needed.
    """
    stat = _statistics(folder)
    for limits, used_name, cache_name in (
        # above "high" the processes of a group are slowed down until they hardly move
        (("memory.max", "memory.high"), "memory.current", "inactive_file"),
        (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    ):
        used = _number(folder / used_name)
        sizes = [size for size in (_number(folder / name) for name in limits) if size is not None]
        if used is None:
            continue
        if limits[0] == "memory.limit_in_bytes" and "hierarchical_memory_limit" in stat:
            sizes.append(stat["hierarchical_memory_limit"])  # also of groups that cannot be seen from here
        sizes = [size for size in sizes if size < _NO_LIMIT]
        if sizes:
            return max(0, min(sizes) - used + stat.get(cache_name, 0))
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none ("max"), or no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _statistics(folder: Path) -> dict[str, int]:
    """memory.stat of a group; empty where it cannot be read."""
    try:
        words = [line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[1].isdecimal()}
