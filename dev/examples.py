"""The examples, as tests and benches take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


def training_job() -> dict[str, Any]:
    """The TrainingJob of the digits, which needs no other object: it reads the file that the example's Dataset is made
    from, and divides it likewise."""
    made: dict[str, Any] = yaml.safe_load((DIGITS / "training-job.yaml").read_text())
    rows = yaml.safe_load((DIGITS / "dataset.yaml").read_text())["spec"]
    made["spec"]["data"] = {"uri": rows["source"]["uri"], **rows["schema"], "split": rows["split"]}
    return made
