"""The images of the trainer and the model server, from their Dockerfiles into a registry.

An image is pushed in two parts. Its dependencies are an image of their own, built and compressed when the locked
requirements change: minutes, and gigabytes. Our code is one small layer, which is put on top of the dependencies by
writing a new manifest in the registry: seconds. Where a registry has the dependencies (it is asked each time, since
several registries may stand on one storage folder), nothing of them is built, read or sent.

    python -m dev.images --registry HOST:PORT [--only trainer|server|base] [--print]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dev import base, buildah, inputs, oci
from dev.buildah import PREFIX, ROOT
from dev.registry import Registry
from devcluster.progress import StepFailed, Steps

NAMES = ("trainer", "server")
PROJECT = "modelwright"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_USER = "10001:10001"
# Seconds on two cores, before this machine knows better.
_USUAL = {"trainer": (240.0, 90.0), "server": (30.0, 6.0)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """An image's tags: `tag` is the whole image's, `dependencies` that of the image below our code."""

    name: str
    dockerfile: str
    base: str
    tag: str
    dependencies: str

    @property
    def repository(self) -> str:
        return f"{PROJECT}/{self.name}"


def plan(name: str, root: Path = ROOT) -> Plan:
    """The plan of image `name`, from the files of the repository at `root`."""
    dockerfile = f"{name}_image/Dockerfile"
    base_key = base.key(root)
    arguments = {"BASE": base_key}
    return Plan(
        name,
        dockerfile,
        base_key,
        inputs.stage_tag(root, dockerfile, "", arguments),
        f"dependencies-{inputs.stage_tag(root, dockerfile, 'dependencies', arguments)}",
    )


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
    dependencies = registry.image(wanted.repository, wanted.dependencies)
    reference = base.ensure_base(steps)
    if dependencies is None:
        _push_dependencies(steps, registry, wanted, reference)
        dependencies = registry.image(wanted.repository, wanted.dependencies)
    if dependencies is None:
        raise StepFailed(f"registry {registry.address} lost {wanted.repository}:{wanted.dependencies} after the push")
    layer = _code_layer(steps, wanted, reference)
    with steps.step(f"push the {wanted.name} image", key=f"push {wanted.name} code", usual=0.3):
        image = oci.with_layer(dependencies, layer, created_by="COPY --from=layer / /")
        registry.give_image(wanted.repository, wanted.tag, image, (layer,))


def _push_dependencies(steps: Steps, registry: Registry, wanted: Plan, base_reference: str) -> None:
    reference = f"{PREFIX}/{wanted.name}:{wanted.dependencies}"
    build_seconds, push_seconds = _USUAL[wanted.name]
    if not buildah.has_image(reference):
        with steps.step(f"build the {wanted.name} image's dependencies", usual=build_seconds) as step:
            buildah.build(
                wanted.dockerfile, reference, target="dependencies", arguments={"BASE": base_reference}, step=step
            )  # fmt: skip
    with steps.step(f"push the {wanted.name} image's dependencies", usual=push_seconds):
        buildah.push(
            reference, wanted.repository, wanted.dependencies, registry.address, insecure=registry.insecure
        )  # fmt: skip
    # Each torch is 6 GB: the newest stays, for the layers that the next one shares with it.
    for old in set(buildah.images_of(wanted.name)) - {reference}:
        buildah.remove(old)


def _code_layer(steps: Steps, wanted: Plan, base_reference: str) -> oci.Layer:
    reference = f"{PREFIX}/{wanted.name}-code:{wanted.tag}"
    with steps.step(f"build the {wanted.name} image's code", usual=3) as step:
        arguments = {"BASE": base_reference}
        buildah.build(
            wanted.dockerfile, reference, target="layer", arguments=arguments, layers=False, mounts=False, step=step
        )  # fmt: skip
        try:
            return buildah.only_layer(reference)
        finally:
            buildah.remove(reference)


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
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    stated = json.dumps([list(entrypoint), architecture, _USER]).encode()
    tag = hashlib.sha256(hashlib.sha256(content).digest() + stated).hexdigest()[: inputs.TAG_LENGTH]
    repository = f"{PROJECT}/{name}"
    target = Registry.at(registry)
    if not target.has_manifest(repository, tag):
        with steps.step(f"push the {name} image", usual=2):
            layer = oci.layer_of_file(entrypoint[0].lstrip("/"), content)
            image = oci.image_from_scratch(layer, entrypoint=entrypoint, architecture=architecture, user=_USER)
            target.give_image(repository, tag, image, (layer,))
    return f"{registry}/{repository}:{tag}"


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
