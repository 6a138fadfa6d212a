"""The command `compress`: one stage of a compression, as the variable MODELWRIGHT_DERIVATION tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from modelwright.contract import TERMINATION_PATH
from modelwright.derivation import CompressRun

from modelwright_trainer import derivation
from modelwright_trainer.compress import stage


def main(*, termination: Path = Path(TERMINATION_PATH), environment: Mapping[str, str] = os.environ) -> int:
    """The exit code; see `contract.Outcome`."""
    return derivation.ended(CompressRun, stage.run, termination=termination, environment=environment)
