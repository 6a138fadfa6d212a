"""`verify`: is what somebody published elsewhere whole, what its reference says, and does it compute what it claims?"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from modelwright.serving import VerifyRun, VerifySummary

from modelwright_server import failures, processor
from modelwright_server.failures import ServingFailed
from modelwright_server.loading import check, fetch

log = logging.getLogger(__name__)


def main(run: VerifyRun) -> VerifySummary:
    """Never raises: what is wrong is in the summary."""
    try:
        with tempfile.TemporaryDirectory(prefix="verify-") as folder:
            return _verified(run, Path(folder))
    except Exception as error:
        if not isinstance(error, ServingFailed):
            log.exception("verification failed")
        return VerifySummary(ok=False, digest=run.digest, failure=failures.of(error).failure)


def _verified(run: VerifyRun, folder: Path) -> VerifySummary:
    manifest = fetch(run, folder, run.store_patience_seconds)
    loaded = check(folder, manifest, processor.threads())
    return VerifySummary(
        ok=True,
        digest=run.digest,
        task=manifest.task,
        classes=len(manifest.classes),
        bytes=sum(file.size for file in manifest.files),
        metrics=manifest.metrics.get("test", {}),
        warnings=loaded.warnings,
    )
