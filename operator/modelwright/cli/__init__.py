"""The command line `modelwright`, also as kubectl's plugin (`kubectl modelwright …`): what a person does beside Git."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from modelwright import __version__
from modelwright.cli import approve, lineage, predict, pull, restore, services
from modelwright.cli.cluster import Refused, Where

_SERVICES = {
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
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--namespace", "-n", help="default: the one of kubectl's context")
    where.add_argument("--context", help="of kubectl's configuration; default: its current one")
    where.add_argument("--kubeconfig", help="default: $KUBECONFIG, or ~/.kube/config")

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, parents=[where])

    for name, help_ in _SERVICES.items():
        command(name, help_).add_argument("name", metavar="NAME", help="the InferenceService")
    approved = command("approve", "let a channel move to a version, in your own name")
    approved.add_argument("name", metavar="MODEL", help="the Model")
    approved.add_argument("channel", metavar="CHANNEL", help="of spec.approval.channels")
    approved.add_argument("--version", dest="number", required=True, help="the version that it may move to")
    approved.add_argument("--variant", help="its variant, where it is one")
    approved.add_argument("--reason", required=True, help="why, for those who read it later")
    pulled = command("pull", "download a version's files, and check every digest")
    pulled.add_argument(
        "model", metavar="MODEL[:CHANNEL]", help="a Model and its channel, or a version; left out: the newest"
    )
    pulled.add_argument("--variant", help="such as int8, of the version that it comes to")
    pulled.add_argument("--to", metavar="DIR", help="default: a folder named after the ModelVersion")
    drawn = command("lineage", "draw where a version comes from, and who serves it")
    drawn.add_argument("name", metavar="NAME", help="a ModelVersion, an InferenceService or a Model")
    drawn.add_argument("--svg", metavar="FILE", help="draw it there as well")
    imported = command("import", "write ModelVersions for what lies in a store: the way back after a loss")
    imported.add_argument("uri", metavar="URI", help="of a version's manifest.json, or with --all of a folder")
    imported.add_argument("--all", action="store_true", help="all versions below the folder")
    imported.add_argument("--digest", help="that the manifest must have")
    imported.add_argument("--apply", action="store_true", help="create them; left out: print them as YAML")
    imported.add_argument(
        "--secret", help="the namespace's Secret with the store's credentials; default: the operator's"
    )
    imported.add_argument("--endpoint", help="of the store, as pods reach it; default: the operator's")
    imported.add_argument("--region", help="of the store; default: the operator's")
    asked = command("predict", "ask a service for predictions of named columns")
    asked.add_argument("name", metavar="NAME", help="the InferenceService")
    asked.add_argument("columns", metavar="COLUMN=VALUE", nargs="*", help="one record's")
    asked.add_argument("--file", "-f", help="records: .csv, .json or .jsonl; - is standard input, JSON of either kind")
    asked.add_argument("--json", action="store_true", help="each prediction as a line of JSON")
    asked.add_argument("--url", help="of the service, such as a gateway's; left out: through the API server")
    return made


async def _run(chosen: argparse.Namespace) -> str:
    where = Where(chosen.namespace, chosen.context, chosen.kubeconfig)
    match chosen.command:
        case "pull":
            return await pull.run(chosen.model, chosen.variant, chosen.to, where)
        case "approve":
            return await approve.run(chosen.name, chosen.channel, chosen.number, chosen.variant, chosen.reason, where)
        case "lineage":
            return await lineage.run(chosen.name, chosen.svg, where)
        case "predict":
            return await predict.run(
                chosen.name, chosen.columns, chosen.file, where, url=chosen.url, as_json=chosen.json
            )
        case "import":
            reach = restore.Reach(chosen.endpoint, chosen.region, chosen.secret)
            return await restore.run(chosen.uri, chosen.digest, reach, where, every=chosen.all, apply=chosen.apply)
        case _:
            return await services.run(chosen.command, chosen.name, where)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        print(asyncio.run(_run(parser().parse_args(arguments))))
    except Refused as refused:
        print(f"modelwright: {refused}", file=sys.stderr)
        return 1
    return 0
