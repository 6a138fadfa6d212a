"""Installs a folder of packages: copies them, and adds the distribution's metadata and compiled bytecode.

Runs inside the image build: `add_code.py FOLDER SITE_PACKAGES`. It does what installing a wheel would do, without a
build backend, so that a change of our code costs a second. The version is read from `modelwright/__init__.py`, as in
pyproject.toml. The bytecode is not checked against its source at start-up (the image's files do not change), so it
stays valid whatever times the layers' files get.
"""

from __future__ import annotations

import base64
import compileall
import hashlib
import py_compile
import re
import shutil
import sys
from pathlib import Path

DISTRIBUTION = "modelwright"
_VERSION = re.compile(r"^__version__\s*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)


def version_in(source: str) -> str:
    """The version that a module's source assigns. Raises ValueError where it assigns none."""
    found = _VERSION.search(source)
    if not found:
        raise ValueError(f"{DISTRIBUTION}/__init__.py assigns no __version__")
    return found.group(1)


def record(files: dict[str, bytes]) -> str:
    """The text of RECORD (PEP 376) for the installed files, by their path below site-packages."""
    lines = []
    for path, content in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    return "\n".join(lines) + "\n"


def main(folder: Path, site_packages: Path) -> None:
    shutil.copytree(folder, site_packages, dirs_exist_ok=True)
    version = version_in((site_packages / DISTRIBUTION / "__init__.py").read_text())
    installed = {str(p.relative_to(site_packages)): p.read_bytes() for p in site_packages.rglob("*") if p.is_file()}
    metadata = site_packages / f"{DISTRIBUTION}-{version}.dist-info"
    metadata.mkdir()
    for name, text in {
        "METADATA": f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n",
        "INSTALLER": "modelwright-image\n",
    }.items():
        (metadata / name).write_text(text)
        installed[f"{metadata.name}/{name}"] = text.encode()
    (metadata / "RECORD").write_text(record(installed) + f"{metadata.name}/RECORD,,\n")
    compiled = compileall.compile_dir(
        site_packages, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    if not compiled:
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
