"""`python -m modelwright_server serve|analyse|verify|collect`: what it is to do is JSON in an environment variable, how
it ended the exit code and the termination message; `modelwright.serving` is the contract, for `collect`
`modelwright.collection`."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from modelwright import serving
    from modelwright.contract import Shape

    Stated = TypeVar("Stated", bound=Shape)

USAGE_ERROR = 2
_COMMANDS = {
    "serve": "serve a model version: the entry point of a serving pod; reads MODELWRIGHT_SERVING",
    "analyse": "measure a service with golden samples; reads MODELWRIGHT_ANALYSIS",
    "verify": "check a version in the store; reads MODELWRIGHT_VERIFY",
    "collect": "remove what nobody refers to from a model's folder in the store; reads MODELWRIGHT_COLLECT",
}


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe() -> str:
    """`modelwright-server 0.1.0 (onnxruntime 1.22.0, python 3.13.5)`."""
    return (
        f"modelwright-server {_installed('modelwright')}"
        f" (onnxruntime {_installed('onnxruntime')}, python {platform.python_version()})"
    )


def main(
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    termination: Path = Path("/dev/termination-log"),
) -> int:
    parser = argparse.ArgumentParser(
        prog="modelwright_server", description="Serve models by the Open Inference Protocol V2."
    )
    parser.add_argument(
        "--version", action="store_true", help="print the versions of the server and of what it runs on"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, what in _COMMANDS.items():
        commands.add_parser(name, help=what, description=what)
    chosen = parser.parse_args(arguments)
    if chosen.version:
        print(describe())
        return 0
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run = {"serve": _serve, "analyse": _analyse, "verify": _verify, "collect": _collect}[chosen.command]
    return run(environment, termination)


def _serve(environment: Mapping[str, str], termination: Path) -> int:
    from modelwright import serving

    from modelwright_server import failures

    try:
        run = _stated(serving.ServingRun, serving.SERVING_VARIABLE, environment)
        from modelwright_server import serve

        serve.main(run, _installed("modelwright"))
        code = 0
    except Exception as error:
        if not isinstance(error, failures.ServingFailed):
            logging.getLogger(__name__).exception("serving failed")
        failed = failures.of(error)
        logging.getLogger(__name__).error("%s: %s", failed.reason.reason, failed)  # noqa: TRY400 - its words suffice
        _leave(termination, failed.failure.to_message())
        code = failed.reason.code
    # An inference that did not end within the grace period runs on in native code, which an interpreter that takes
    # itself down around it may not survive: the end is graceful already.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _analyse(environment: Mapping[str, str], termination: Path) -> int:
    from modelwright import serving

    def measured() -> serving.AnalysisSummary:
        run = _stated(serving.AnalysisRun, serving.ANALYSIS_VARIABLE, environment)
        from modelwright_server import analyse

        return analyse.main(run)

    return _summed_up(measured, lambda failure: serving.AnalysisSummary(failure=failure), termination)


def _verify(environment: Mapping[str, str], termination: Path) -> int:
    from modelwright import serving

    def verified() -> serving.VerifySummary:
        run = _stated(serving.VerifyRun, serving.VERIFY_VARIABLE, environment)
        from modelwright_server import verify

        return verify.main(run)

    return _summed_up(
        verified, lambda failure: serving.VerifySummary(ok=False, digest="", failure=failure), termination
    )


def _collect(environment: Mapping[str, str], termination: Path) -> int:
    from modelwright import collection

    from modelwright_server.failures import ServingFailed

    try:
        run = _stated(collection.CollectRun, collection.COLLECT_VARIABLE, environment)
        from modelwright_server import collect

        summary = collect.main(run)
    except ServingFailed as failed:
        summary = collection.CollectSummary(failure=failed.failure.message)
    message = summary.to_message()
    print(message)
    _leave(termination, message)
    return 1 if summary.failure else 0


def _summed_up(
    made: Callable[[], serving.AnalysisSummary | serving.VerifySummary],
    without: Callable[[serving.ServingFailure], serving.AnalysisSummary | serving.VerifySummary],
    termination: Path,
) -> int:
    from modelwright.serving import Reason

    from modelwright_server.failures import ServingFailed

    try:
        summary = made()
    except ServingFailed as failed:
        summary = without(failed.failure)
    message = summary.to_message()
    print(message)
    _leave(termination, message)
    return Reason.named(summary.failure.reason).code if summary.failure else 0


def _stated(shape: type[Stated], variable: str, environment: Mapping[str, str]) -> Stated:
    """What `variable` says is to be done. Raises ServingFailed (InvalidRun)."""
    from modelwright.serving import Reason
    from pydantic import ValidationError

    from modelwright_server.failures import ServingFailed

    text = environment.get(variable)
    if not text:
        raise ServingFailed(
            Reason.INVALID_RUN,
            f"the environment variable {variable} is not set: the operator sets it in the pods it makes",
        )
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or variable
        raise ServingFailed(
            Reason.INVALID_RUN,
            f"{variable}: {place}: {first['msg']}: are the operator and the server image of one version?",
        ) from error


def _leave(termination: Path, message: str) -> None:
    """For the kubelet, when the container has ended; outside of one there is no such file, and nobody to read it."""
    if termination.exists():
        termination.write_text(message)


if __name__ == "__main__":
    sys.exit(main())
