"""ONNX Runtime's session over a fetched version: the graph, its signature, and how many threads compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime
from modelwright import hardware, packing
from modelwright.artifact import Manifest, Onnx, Tensor
from modelwright.serving import Reason

from modelwright_server.failures import ServingFailed
from modelwright_server.tensors import OF_MANIFEST, Array, Spec, datatype_of

PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory")


class InferenceFailed(Exception):  # noqa: N818 - it reads as what happened
    """The runtime failed on well-formed input; the text is the runtime's."""


class Engine:
    """A loaded graph. `run` may be called from several threads at once.

    `inputs` and `outputs` are the graph's, in its order. Raises ServingFailed (LoadFailed, OutOfMemory,
    FormatUnavailable) where the runtime does not take the graph, or the graph is not what the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        onnx = manifest.formats.onnx
        if onnx is None:
            raise ServingFailed(
                Reason.FORMAT_UNAVAILABLE, "the artifact has no ONNX graph, which is what this server runs"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # A thread that spins while it waits takes the CPU from those that answer requests, and from a container's
        # quota; it is only worth it where nothing else runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if onnx.packed is not None:
            self._held = _inject(options, folder, onnx, onnx.packed)
        try:
            self._session = onnxruntime.InferenceSession(folder / onnx.path, options, providers=[PROVIDER])
            self.inputs = tuple(_spec(one) for one in self._session.get_inputs())
            self.outputs = tuple(_spec(one) for one in self._session.get_outputs())
        except MemoryError:
            raise
        except Exception as error:
            raise _not_loaded(onnx.path, error) from error
        _check_agreement("inputs", self.inputs, manifest.inputs)
        _check_agreement("outputs", self.outputs, manifest.outputs)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The named outputs for `inputs`, whose types and shapes are those of `self.inputs`. Raises InferenceFailed."""
        try:
            found: list[Array] = self._session.run(outputs, inputs)
        except Exception as error:
            raise InferenceFailed(_words(error)) from error
        return found


def _inject(options: onnxruntime.SessionOptions, folder: Path, onnx: Onnx, packed: str) -> object:
    """Decodes the container, and gives its tensors to the session as the graph's initializers. What is returned has to
    live as long as the session: the runtime reads these very arrays. Raises ServingFailed."""
    limit = hardware.memory()
    try:
        most = packing.MOST_BYTES if limit is None else min(limit, packing.MOST_BYTES)
        tensors = packing.decode((folder / packed).read_bytes(), unpacked=onnx.unpacked, most=most)
    except ValueError as error:
        raise ServingFailed(
            Reason.ARTIFACT_DAMAGED, f"{packed} cannot be decoded: {error}: publish the version again"
        ) from error
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for tensor in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    return tensors, values


def _spec(argument: onnxruntime.NodeArg) -> Spec:
    try:
        datatype = datatype_of(argument.type)
    except KeyError:
        raise ServingFailed(
            Reason.LOAD_FAILED, f"{argument.name}: the protocol has no data type for the graph's {argument.type}"
        ) from None
    return Spec(argument.name, datatype, tuple(argument.shape))


def _check_agreement(what: str, found: Sequence[Spec], stated: Sequence[Tensor]) -> None:
    """Whoever reads the manifest alone, the operator or a client, must not be misled by it."""
    of_graph = {one.name: (one.datatype, one.lengths) for one in found}
    of_manifest = {one.name: (OF_MANIFEST[one.dtype], [-1 if n is None else n for n in one.shape]) for one in stated}
    if of_graph != of_manifest:
        raise ServingFailed(
            Reason.LOAD_FAILED,
            f"the graph's {what} are {_listed(of_graph)}, and the manifest says {_listed(of_manifest)}: publish again",
        )


def _listed(tensors: Mapping[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} {datatype} {shape}" for name, (datatype, shape) in tensors.items()) or "none"


def _not_loaded(path: str, error: Exception) -> ServingFailed:
    if isinstance(error, ServingFailed):
        return error
    text = _words(error)
    if any(word in text for word in _OUT_OF_MEMORY):
        return ServingFailed(
            Reason.OUT_OF_MEMORY, f"{path}: memory ran out ({text}): raise the container's memory limit"
        )
    return ServingFailed(
        Reason.LOAD_FAILED, f"{path}: onnxruntime {onnxruntime.__version__} does not take the graph: {text}"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:1000] or type(error).__name__
