"""What the machine is: what decides the last bits of a result on its processor, and how much memory there is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# The first that the processor has decides which kernels the runtime takes, and so the last bits of its results.
_INSTRUCTIONS = ("amx_tile", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "sve", "asimddp", "asimd")
_ROOT = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
# Version 1 writes "no limit" as the greatest whole number of pages.
_NO_LIMIT = 1 << 60


def instruction_set(cpuinfo: str | None = None) -> str:
    """`x86_64/avx512_vnni`: the architecture, and the most telling of the processor's vector instructions, of which two
    alike compute alike; from the text of /proc/cpuinfo, this machine's where none is given."""
    try:
        text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    flags = lines[0].split(":", 1)[1].split() if lines else []
    best = next((name for name in _INSTRUCTIONS if name in flags), "base")
    return f"{platform.machine() or os.uname().machine}/{best}"


def memory(root: Path = _ROOT) -> int | None:
    """The limit in bytes, of either version of control groups; None without one, and where the kernel does not tell."""
    for name in _LIMITS:
        try:
            limit = int((root / name).read_text())
        except (OSError, ValueError):  # "max" is no number
            continue
        if limit < _NO_LIMIT:
            return limit
    return None
