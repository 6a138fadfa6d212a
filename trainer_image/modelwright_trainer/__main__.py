"""The trainer's commands. torch is imported by the commands that compute: it takes seconds from a cold disk, and
`--version` or a wrong argument should not."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from modelwright_trainer.outcome import Failed, report_failure
from modelwright_trainer.versions import describe

_COMMANDS = {
    "run": "train: the entry point of a training job's pods; its exit codes are those of modelwright.contract.Outcome",
    "own": "what stands around the user's own code in its pod: fetch, progress, publish",
    "dataset": "prepare a data set: read, check, split, profile and shard it; told in the variable MODELWRIGHT_DATASET",
    "combine": "make one version of several; told in the variable MODELWRIGHT_DERIVATION",
    "compress": "make one step of a compression, or publish it; told in the variable MODELWRIGHT_DERIVATION",
    "import": "make a version of what other software has left in a store; told in the variable MODELWRIGHT_DERIVATION",
    "allreduce": "check the fabric between the pods of a job: a timed all-reduce whose sum is verified",
}
USAGE_ERROR = 2


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line; `environment` gives what Kubernetes sets in an Indexed Job's pods."""
    whole = argparse.ArgumentParser(prog="modelwright_trainer", description="What runs in the pods of a training job.")
    whole.add_argument(
        "--version", action="store_true", help="print the versions of the trainer and of what it runs on"
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    run = commands.add_parser("run", help=_COMMANDS["run"], description=_COMMANDS["run"])
    run.add_argument(
        "--job", type=Path, required=True, help="the resolved job as JSON, modelwright.contract.TrainingRun"
    )
    run.add_argument("--scratch", type=Path, help="a folder for the pod's files, kept; default one in TMPDIR, removed")
    own = commands.add_parser("own", help=_COMMANDS["own"], description=_COMMANDS["own"])
    own.add_argument("part", choices=("fetch", "progress", "publish"), help="which of the containers this is")
    own.add_argument("--job", type=Path, required=True, help="the resolved job as JSON, modelwright.owncode.OwnRun")
    commands.add_parser("dataset", help=_COMMANDS["dataset"], description=_COMMANDS["dataset"])
    commands.add_parser("combine", help=_COMMANDS["combine"], description=_COMMANDS["combine"])
    commands.add_parser("compress", help=_COMMANDS["compress"], description=_COMMANDS["compress"])
    commands.add_parser("import", help=_COMMANDS["import"], description=_COMMANDS["import"])
    allreduce = commands.add_parser("allreduce", help=_COMMANDS["allreduce"], description=_COMMANDS["allreduce"])
    allreduce.add_argument("--master-addr", default=environment.get("MASTER_ADDR"), help="rank 0's host (MASTER_ADDR)")
    allreduce.add_argument(
        "--master-port", type=int, default=environment.get("MASTER_PORT", "29500"), help="default 29500"
    )
    allreduce.add_argument(
        "--rank", type=int, default=environment.get("RANK") or environment.get("JOB_COMPLETION_INDEX"),
        help="this process's rank (RANK, else JOB_COMPLETION_INDEX)",
    )  # fmt: skip
    allreduce.add_argument(
        "--world-size", type=int, default=environment.get("WORLD_SIZE"), help="number of ranks (WORLD_SIZE)"
    )
    allreduce.add_argument(
        "--timeout", type=float, default=120.0, help="seconds until all ranks must have met; default 120"
    )
    allreduce.add_argument("--output", help="where rank 0 writes the result: s3://bucket/key or file:///path")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    whole = parser(os.environ)
    chosen = whole.parse_args(arguments)
    if chosen.version:
        print(describe())
        return 0
    if chosen.command is None:
        listed = "\n".join(f"  {name}  {what}" for name, what in _COMMANDS.items())
        print(f"modelwright_trainer: no command given. The commands are:\n{listed}", file=sys.stderr)
        return USAGE_ERROR
    if chosen.command == "run":
        from modelwright_trainer import run

        return run.main(chosen.job, chosen.scratch)
    if chosen.command == "own":
        from modelwright_trainer.owncode import command as own

        return own.main(chosen.part, chosen.job)
    if chosen.command == "dataset":
        from modelwright_trainer.dataset import command

        return command.main()
    if chosen.command == "combine":
        from modelwright_trainer.combine import command as combination

        return combination.main()
    if chosen.command == "compress":
        from modelwright_trainer.compress import command as compression

        return compression.main()
    if chosen.command == "import":
        from modelwright_trainer.imported import command as importing

        return importing.main()
    for flag in ("master_addr", "rank", "world_size"):
        if getattr(chosen, flag) is None:
            print(f"modelwright_trainer {chosen.command}: give --{flag.replace('_', '-')}", file=sys.stderr)
            return USAGE_ERROR
    if not 0 <= chosen.rank < chosen.world_size:
        print(
            f"--rank {chosen.rank}: with --world-size {chosen.world_size} it is 0 to {chosen.world_size - 1}",
            file=sys.stderr,
        )
        return USAGE_ERROR
    return _ended(lambda: _allreduce(chosen))


def _allreduce(chosen: argparse.Namespace) -> None:
    from modelwright_trainer import allreduce
    from modelwright_trainer.rendezvous import Rendezvous

    meeting = Rendezvous(chosen.master_addr, chosen.master_port, chosen.rank, chosen.world_size, chosen.timeout)
    allreduce.check(meeting, chosen.output)


def _ended(command: Callable[[], None]) -> int:
    """The exit code of a command; its failure is said on stderr, and in the pod's termination message."""
    try:
        command()
    except Failed as failed:
        print(f"modelwright_trainer: {failed}", file=sys.stderr)
        report_failure(failed)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
