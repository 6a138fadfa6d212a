"""The command line `modelwright`, also as kubectl's plugin (`kubectl modelwright …`): what a person does beside Git."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from modelwright import __version__
from modelwright.cli import services

_COMMANDS = {
    "promote": "let the version that waits for a person answer all requests",
    "abort": "drop the change that is under way; what answered before it serves on",
    "rollback": "go back to the version that answered before",
    "retry": "try the version that failed once more",
    "status": "tell what a service serves, and what is under way",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="modelwright", description="A machine-learning model's life on Kubernetes.")
    made.add_argument("--version", action="version", version=f"modelwright {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_ in _COMMANDS.items():
        one = commands.add_parser(name, help=help_, description=help_)
        one.add_argument("name", metavar="NAME", help="the InferenceService")
        one.add_argument("--namespace", "-n", help="default: the one of kubectl's context")
        one.add_argument("--context", help="of kubectl's configuration; default: its current one")
        one.add_argument("--kubeconfig", help="default: $KUBECONFIG, or ~/.kube/config")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    where = services.Where(chosen.namespace, chosen.context, chosen.kubeconfig)
    try:
        print(asyncio.run(services.run(chosen.command, chosen.name, where)))
    except services.Refused as refused:
        print(f"modelwright: {refused}", file=sys.stderr)
        return 1
    return 0
