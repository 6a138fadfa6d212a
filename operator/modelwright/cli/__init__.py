"""The command line `modelwright`. So far it says its version; commands come with the kinds that they act on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from modelwright import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="modelwright", description="A machine-learning model's life on Kubernetes.")
    parser.add_argument("--version", action="version", version=f"modelwright {__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0
