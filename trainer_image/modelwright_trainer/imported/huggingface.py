"""A directory as Hugging Face's libraries write it: whole, and without code of its own."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from modelwright.store import Store

from modelwright_trainer.imported.source import FIELD, Refused, brought, inside, not_pickled
from modelwright_trainer.imported.tensorfile import tensors_of

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
_CODE = frozenset({".py", ".so", ".sh", ".exe", ".dll", ".pyc"})
_MOST_FILES = 10_000
_MOST_JSON_BYTES = 64 * 1024 * 1024


def fetched(store: Store, uri: str, into: Path) -> list[str]:
    """Brings the directory at `uri`; the names of its files. Raises Refused, StoreError."""
    names = store.names(uri)
    _listed(uri, names)
    for name in names:
        most = _MOST_JSON_BYTES if name.endswith(".json") else None
        brought(store, f"{uri.rstrip('/')}/{name}", into / name, most=most, below=uri)
    config = _json(into, "config.json", uri)
    if "auto_map" in config:
        raise Refused(
            f"{uri}config.json has auto_map: the model needs code of its own, which no runtime here runs: take one that"
            " the libraries know"
        )
    if not config.get("model_type") and not config.get("architectures"):
        raise Refused(f"{uri}config.json says neither model_type nor architectures: save the model again")
    _weights(uri, into, names)
    return names


def _listed(uri: str, names: list[str]) -> None:
    if not names:
        raise Refused(f"{FIELD}.uri: below {uri} there is nothing: upload the files, or mend the URI")
    if len(names) > _MOST_FILES:
        raise Refused(f"{uri} has {len(names)} files, and {_MOST_FILES} are the most: name the model's own folder")
    for name in names:
        if not inside(name):
            raise Refused(f"{uri}{name} cannot be a file of a version: rename it")
        not_pickled(name)
        if PurePosixPath(name).suffix.lower() in _CODE:
            raise Refused(f"{uri}{name} is code, which no runtime here runs: leave it out")
    if "config.json" not in names:
        raise Refused(f"{uri} has no config.json, which a Hugging Face directory has: save the model with it")
    if not any(name in names for name in _TOKENIZERS):
        raise Refused(f"{uri} has no tokenizer (one of {', '.join(_TOKENIZERS)}): save it beside the model")
    if INDEX not in names and SINGLE not in names:
        raise Refused(f"{uri} has neither {SINGLE} nor {INDEX}: save the weights as safetensors")


def _json(into: Path, name: str, uri: str) -> dict[str, Any]:
    try:
        found = json.loads((into / name).read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"{uri}{name} cannot be read as JSON: upload it again") from error
    if not isinstance(found, dict):
        raise Refused(f"{uri}{name} is no JSON object: upload the file that the library has written")
    return found


def _weights(uri: str, into: Path, names: list[str]) -> None:
    """Every tensor of the index is in its shard, every shard whole."""
    held = {
        name: tensors_of(into / name, f"{uri}{name}") for name in names if PurePosixPath(name).suffix == ".safetensors"
    }
    if INDEX not in names:
        return
    index = _json(into, INDEX, uri)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise Refused(f"{uri}{INDEX} has no weight_map: save the model again")
    for tensor, shard in places.items():
        if shard not in held:
            raise Refused(f"{uri}{INDEX} names the shard {shard} for {tensor}, which is not there: upload it")
        if tensor not in held[shard]:
            raise Refused(f"{uri}{shard} has no tensor {tensor}, which {INDEX} says it has: upload the right shard")
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    total = sum(held[shard][tensor] for tensor, shard in places.items())
    if isinstance(stated, int) and stated != total:
        raise Refused(f"{uri}{INDEX} says {stated} bytes in all, and its tensors have {total}: save the model again")
