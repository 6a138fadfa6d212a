"""What decides the last bits of a result on a processor: two of equal name compute alike."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# The first that the processor has decides which kernels the runtime takes, and so the last bits of its results.
_INSTRUCTIONS = ("amx_tile", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "sve", "asimddp", "asimd")


def instruction_set(cpuinfo: str | None = None) -> str:
    """`x86_64/avx512_vnni`: the architecture, and the most telling of the processor's vector instructions; from the
    text of /proc/cpuinfo, this machine's where none is given."""
    try:
        text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    flags = lines[0].split(":", 1)[1].split() if lines else []
    best = next((name for name in _INSTRUCTIONS if name in flags), "base")
    return f"{platform.machine() or os.uname().machine}/{best}"
