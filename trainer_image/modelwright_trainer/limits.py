"""What the container may use of memory and processors, and what of memory it has used."""

from __future__ import annotations

from pathlib import Path

from modelwright.hardware import memory as memory  # the limit, which the server looks at too

_ROOT = Path("/sys/fs/cgroup")
_PEAKS = ("memory.peak", "memory/memory.max_usage_in_bytes")
_KILLS = ("memory.events", "memory/memory.oom_control")


def memory_peak(root: Path = _ROOT) -> int | None:
    """The most that the container has held in memory at once, in bytes, of either version of control groups; None where
    the kernel does not tell (version 2 does since Linux 5.19)."""
    for name in _PEAKS:
        try:
            return int((root / name).read_text())
        except (OSError, ValueError):
            continue
    return None


def oom_kills(root: Path = _ROOT) -> int:
    """How many processes of the container the kernel killed for memory, of either version of control groups; 0 where
    that is not told."""
    for name in _KILLS:
        try:
            counts = dict(line.split(maxsplit=1) for line in (root / name).read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def binary(size: int) -> str:
    """Bytes for the reader: `511.8Mi`, `2Gi`."""
    for unit, power in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f}".removesuffix(".0") + unit
    return str(size)


def threads(processes: int, quota: str | None = None) -> int:
    """How many threads each rank computes with: the container's CPU limit over its ranks. Without a limit one: a pod
    that took all of a node's cores would slow its neighbours, and itself by switching."""
    try:
        words = ((_ROOT / "cpu.max").read_text() if quota is None else quota).split()
        return max(1, int(float(words[0]) / float(words[1]) / processes))
    except (OSError, ValueError, IndexError):  # "max" is no number
        return 1


def peak(status: Path = Path("/proc/self/status")) -> int | None:
    """The most that this process has held in memory at once, in bytes. Not getrusage's, which begins with that of the
    process that forked this one. None where the kernel does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
