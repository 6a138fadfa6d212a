"""Which versions this image holds, read without importing torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import runpy
from pathlib import Path


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    """The CUDA version that torch was built for; torch's own version file says it, and needs none of torch."""
    found = importlib.util.find_spec("torch")
    for folder in found.submodule_search_locations or () if found else ():
        stated = Path(folder) / "version.py"
        if stated.exists():
            return str(runpy.run_path(str(stated)).get("cuda") or "none")
    return "none"


def describe() -> str:
    """`modelwright-trainer 0.1.0 (torch 2.15.0, CUDA 13.2, python 3.13.5)`."""
    return (
        f"modelwright-trainer {_installed('modelwright')}"
        f" (torch {_installed('torch')}, CUDA {_cuda()}, python {platform.python_version()})"
    )
