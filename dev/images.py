"""The images of the trainer and the model server, from their Dockerfiles into a registry.

Each stage that an image's last stage copies from is one layer: torch, the other dependencies, our code. A layer has a
tag that follows from its inputs, and is built and sent only to a registry that does not have it (which is asked each
time, since several registries may stand on one storage folder). The image is then a manifest that names its layers. So
a new line of code costs a second, and a new release of torch a minute.

    python -m dev.images --registry HOST:PORT [--only trainer|server|base] [--print]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from base_image import split_requirements
from dev import base, buildah, inputs, layers, oci
from dev.buildah import PREFIX, ROOT
from dev.registry import Registry
from devcluster.progress import StepFailed, Steps

NAMES = ("operator", "trainer", "server")
PROJECT = "modelwright"
VENV = "/opt/venv"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_USER = "10001:10001"
# Seconds on two cores, before this machine knows better; all but these are done in two.
_USUAL = {"trainer torch": 150.0, "trainer rest": 15.0, "server dependencies": 12.0, "operator dependencies": 10.0}


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage that is built by itself; `tag` names its result in the registry."""

    stage: str
    tag: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """An image: `layers`, the lowest first, on top of the `settings` (the base, the user, the entry point)."""

    name: str
    dockerfile: str
    settings: Part
    layers: tuple[Part, ...]
    tag: str

    @property
    def repository(self) -> str:
        return f"{PROJECT}/{self.name}"


def _as_installed(stage: str, path: str, content: bytes) -> bytes:
    """What `stage` makes of a file: of locked requirements, those that it installs, whatever is remarked on them."""
    if not path.startswith("requirements/"):
        return content
    locked = split_requirements.parse(content.decode())
    if stage in ("torch", "rest"):
        locked = split_requirements.split(locked, "torch")[0 if stage == "torch" else 1]
    lines = (line for requirement in locked for line in requirement.text.splitlines())
    return "\n".join(line for line in lines if not line.lstrip().startswith("#")).encode()


def plan(name: str, root: Path = ROOT) -> Plan:
    """The plan of image `name`, from the files of the repository at `root`."""
    dockerfile = f"{name}_image/Dockerfile"
    arguments = {"BASE": base.key(root)}

    def part(stage: str) -> Part:
        needed, files = inputs.stage_inputs(root, dockerfile, stage)
        installed = {path: _as_installed(stage, path, content) for path, content in files.items()}
        return Part(stage, f"{stage}-{inputs.tag(needed, installed, arguments)}")

    settings, stages = inputs.joined(inputs.parse((root / dockerfile).read_text()), VENV)
    parts = (part(settings), *map(part, stages))
    return Plan(name, dockerfile, parts[0], parts[1:], inputs.fingerprint(*(part.tag.encode() for part in parts)))


def references(registry: str, names: Sequence[str] = NAMES) -> dict[str, str]:
    """The references that the images of this checkout have, or will have, in `registry`."""
    return {name: f"{registry}/{PROJECT}/{name}:{base.key() if name == 'base' else plan(name).tag}" for name in names}


def build_and_push(steps: Steps, registry: str, names: Sequence[str] = NAMES) -> dict[str, str]:
    """Brings the images `names` of this checkout into the registry at HOST:PORT, and returns their references by name.

    What the registry has already costs one request. Raises `StepFailed`.
    """
    target = Registry.at(registry)
    wanted = references(registry, names)
    missing = [name for name in names if not _is_there(target, wanted[name])]
    if missing:
        with _one_at_a_time(steps):
            for name in missing:
                if name == "base":
                    _push_base(steps, target)
                else:
                    _push(steps, target, plan(name))
    return wanted


def _is_there(registry: Registry, reference: str) -> bool:
    repository, tag = reference.removeprefix(f"{registry.address}/").rsplit(":", 1)
    return registry.has_manifest(repository, tag)


def _push(steps: Steps, registry: Registry, wanted: Plan) -> None:
    if registry.has_manifest(wanted.repository, wanted.tag):  # while we waited, another process may have pushed it
        return
    image = registry.image(wanted.repository, wanted.settings.tag) or _push_settings(steps, registry, wanted)
    for part in wanted.layers:
        kept = registry.image(wanted.repository, part.tag)
        layer = oci.layers_of(kept)[0] if kept else _push_layer(steps, registry, wanted, part)
        image = oci.with_layer(image, layer, created_by=f"COPY --from={part.stage} {VENV} {VENV}")
    registry.give_image(wanted.repository, wanted.tag, image)


def _push_settings(steps: Steps, registry: Registry, wanted: Plan) -> oci.Image:
    """The image that the layers are put on."""
    with _built(steps, wanted, wanted.settings) as reference:
        buildah.push(
            reference, wanted.repository, wanted.settings.tag, registry.address, insecure=registry.insecure
        )  # fmt: skip
    pushed = registry.image(wanted.repository, wanted.settings.tag)
    if pushed is None:
        raise StepFailed(f"registry {registry.address} lost {wanted.repository}:{wanted.settings.tag} after the push")
    return pushed


def _push_layer(steps: Steps, registry: Registry, wanted: Plan, part: Part) -> oci.Descriptor:
    """Builds a layer and sends it. The stage's folder is mounted from outside, and so buildah has nothing to commit."""
    layers.ensure_tools(steps)
    with tempfile.TemporaryDirectory(dir=buildah.images_home(), prefix="layer-", ignore_cleanup_errors=True) as made:
        root = Path(made)
        mount = ("-v", f"{layers.empty_layer_root(root, VENV)}:{VENV}:rw")
        with _built(steps, wanted, part, options=mount, uv=part.stage != "code"):
            packing = layers.Packing(root)
            registry.give_stream(wanted.repository, packing.blocks(), lambda: packing.descriptor.digest)
    layer = packing.descriptor
    kept = oci.image_from_scratch(layer, architecture=_architecture(), settings={})
    registry.give_image(wanted.repository, part.tag, kept)
    return layer


@contextlib.contextmanager
def _built(steps: Steps, wanted: Plan, part: Part, *, options: tuple[str, ...] = (), uv: bool = False) -> Iterator[str]:
    """Builds a stage, and gives its reference for the time of a step that sends what was built."""
    base_reference = base.ensure_base(steps)
    reference = f"{PREFIX}/{wanted.name}:{part.tag}"
    what = f"{wanted.name} {part.stage}"
    with steps.step(f"build and push: {what}", key=f"image {what}", usual=_USUAL.get(what, 2.0)) as step:
        buildah.build(
            wanted.dockerfile, reference, target=part.stage, arguments={"BASE": base_reference}, options=options,
            uv=uv, step=step,
        )  # fmt: skip
        step.note("sending it to the registry")
        try:
            yield reference
        finally:
            buildah.remove(reference)
        step.note("")


def _push_base(steps: Steps, registry: Registry) -> None:
    reference = base.ensure_base(steps)
    with steps.step("push the base image", usual=3):
        buildah.push(reference, f"{PROJECT}/base", base.key(), registry.address, insecure=registry.insecure)


def push_binary_image(steps: Steps, registry: str, name: str, binary: Path, entrypoint: Sequence[str]) -> str:
    """Pushes an image that holds one static binary, and returns its reference.

    The binary's path in the image is the first word of `entrypoint`; the others are its arguments. The tag follows from
    the binary's content and the `entrypoint`. Raises `StepFailed`.
    """
    try:
        content = binary.read_bytes()
    except OSError as error:
        raise StepFailed(f"image {name}: cannot read {binary}: {error.strerror}", remedy="build it first") from error
    architecture = _architecture()
    stated = json.dumps([list(entrypoint), architecture, _USER]).encode()
    tag = inputs.fingerprint(content, stated)
    repository = f"{PROJECT}/{name}"
    target = Registry.at(registry)
    if not target.has_manifest(repository, tag):
        with steps.step(f"push the {name} image", usual=2):
            layer, blob = oci.layer_of_file(entrypoint[0].lstrip("/"), content)
            settings = {"Entrypoint": list(entrypoint), "User": _USER, "WorkingDir": "/"}
            image = oci.image_from_scratch(layer, architecture=architecture, settings=settings)
            target.give_blob(repository, blob)
            target.give_image(repository, tag, image)
    return f"{registry}/{repository}:{tag}"


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


@contextlib.contextmanager
def _one_at_a_time(steps: Steps) -> Iterator[None]:
    """Two builds of 6 GB at once on one machine would each do the other's work again; the second one waits, and then
    finds it done."""
    lock = buildah.images_home() / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with steps.step("wait for another build of images", usual=60):
                fcntl.flock(held, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.images", description="Build the images and push them to a registry."
    )
    parser.add_argument("--registry", required=True, metavar="HOST:PORT", help="where the images go")
    parser.add_argument("--only", choices=(*NAMES, "base"), help="just this image")
    parser.add_argument("--print", action="store_true", help="build nothing: print the references of this checkout")
    chosen = parser.parse_args(arguments)
    names = (chosen.only,) if chosen.only else NAMES
    try:
        found = references(chosen.registry, names) if chosen.print else build_and_push(Steps(), chosen.registry, names)
    except StepFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    for reference in found.values():
        print(reference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
