"""The store: any S3 API, or a folder of a mounted volume, through obstore; with errors that say what to do.

Objects are named by their whole URI, s3://bucket/key or file:///path. Credentials are those of the AWS_* environment,
endpoint and region those of `StoreAccess`, or else of the environment.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from modelwright.contract import StoreAccess

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_TIMEOUT = timedelta(seconds=60)
_RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_CODE = re.compile(r"<Code>(\w+)</Code>")
# Versity's gateway answers an unknown access key with 404 and a code of its own.
_BAD_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound", "InvalidToken"})
_DENIED = frozenset({"AccessDenied", "ExpiredToken", "AllAccessDisabled"})


class Trouble(enum.Enum):
    """What is wrong, as far as one may react to it."""

    BAD_URI = "BadUri"
    NO_BUCKET = "NoSuchBucket"
    NO_OBJECT = "NoSuchObject"
    EXISTS = "AlreadyExists"
    CREDENTIALS = "WrongCredentials"
    DENIED = "AccessDenied"
    UNREACHABLE = "Unreachable"


class StoreError(Exception):
    """Its text is for the reader: what, where, what to do."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


def place_of(uri: str) -> tuple[str, str]:
    """Bucket ("" for a file) and key or absolute path of a URI. Raises StoreError."""
    parts = urllib.parse.urlsplit(uri)
    path = urllib.parse.unquote(parts.path).lstrip("/")
    if parts.query or parts.fragment or not path or ".." in path.split("/"):
        raise StoreError(Trouble.BAD_URI, f"{uri}: write it like s3://bucket/key or file:///path")
    if parts.scheme == "s3" and parts.netloc:
        return parts.netloc, path
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return "", path
    raise StoreError(Trouble.BAD_URI, f"{uri}: write it like s3://bucket/key or file:///path")


class Store:
    """Reads and writes objects of one endpoint, in any of its buckets. Each method may raise StoreError."""

    def __init__(self, access: StoreAccess, environment: Mapping[str, str] = os.environ) -> None:
        self.access = access
        self._endpoint = access.endpoint or environment.get("AWS_ENDPOINT_URL") or None
        self._region = access.region or environment.get("AWS_REGION") or "us-east-1"
        self._keys = {
            setting: environment[name]
            for setting, name in (
                ("access_key_id", "AWS_ACCESS_KEY_ID"),
                ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
                ("session_token", "AWS_SESSION_TOKEN"),
            )
            if environment.get(name)
        }
        self._bucket = functools.cache(self._open)

    def read(self, uri: str) -> bytes:
        import obstore

        bucket, key = place_of(uri)
        try:
            return bytes(obstore.get(self._bucket(bucket), key).bytes())
        except Exception as error:
            self._say(error, uri)

    def size(self, uri: str) -> int | None:
        """In bytes; None where there is no such object."""
        import obstore

        bucket, key = place_of(uri)
        try:
            return int(obstore.head(self._bucket(bucket), key)["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            self._say(error, uri)

    def modified(self, uri: str) -> datetime | None:
        """When the object was written, by the store's clock; None where there is no such object."""
        import obstore

        bucket, key = place_of(uri)
        try:
            return obstore.head(self._bucket(bucket), key)["last_modified"]
        except FileNotFoundError:
            return None
        except Exception as error:
            self._say(error, uri)

    def create(self, uri: str, content: bytes) -> None:
        """Writes an object that must not be there yet, whole or not at all; the trouble is EXISTS where it is."""
        import obstore

        bucket, key = place_of(uri)
        try:
            obstore.put(self._bucket(bucket), key, content, mode="create")
        except Exception as error:
            self._say(error, uri)

    def write(self, uri: str, content: bytes | Path) -> None:
        """Writes an object, or a file's content as one, whole or not at all; large ones in parts."""
        import obstore

        bucket, key = place_of(uri)
        try:
            obstore.put(self._bucket(bucket), key, content)
        except Exception as error:
            self._say(error, uri)

    def download(self, uri: str, path: Path | None) -> tuple[str, int]:
        """Reads an object as a stream, into a file where one is given; its digest ("sha256:…") and size in bytes."""
        import obstore

        bucket, key = place_of(uri)
        digest, size = hashlib.sha256(), 0
        with path.open("wb") if path else contextlib.nullcontext() as file:
            try:
                for block in obstore.get(self._bucket(bucket), key).stream(min_chunk_size=4 * 1024 * 1024):
                    digest.update(block)
                    size += len(block)
                    if file:
                        file.write(block)
            except Exception as error:
                self._say(error, uri)
        return f"sha256:{digest.hexdigest()}", size

    def names(self, folder: str) -> list[str]:
        """The paths, below the URI `folder`, of all objects in it, sorted."""
        import obstore

        bucket, key = place_of(folder)
        key = key.rstrip("/")
        try:
            batches = obstore.list(self._bucket(bucket), prefix=f"{key}/")
            found = [str(entry["path"]) for batch in batches for entry in batch]
        except FileNotFoundError:
            return []
        except Exception as error:
            self._say(error, folder)
        return sorted(name.removeprefix(f"{key}/") for name in found)

    def entries(self, folder: str) -> list[tuple[str, int, datetime]]:
        """As `names`, each with its size in bytes, and when it was written by the store's clock."""
        import obstore

        bucket, key = place_of(folder)
        key = key.rstrip("/")
        try:
            batches = obstore.list(self._bucket(bucket), prefix=f"{key}/")
            found = [
                (str(entry["path"]).removeprefix(f"{key}/"), int(entry["size"]), entry["last_modified"])
                for batch in batches
                for entry in batch
            ]
        except FileNotFoundError:
            return []
        except Exception as error:
            self._say(error, folder)
        return sorted(found)

    def remove(self, uris: Iterable[str]) -> None:
        """Removes objects; one that is not there is none."""
        import obstore

        for uri in uris:
            bucket, key = place_of(uri)
            try:
                obstore.delete(self._bucket(bucket), key)
            except FileNotFoundError:
                continue
            except Exception as error:
                self._say(error, uri)

    def _open(self, bucket: str) -> ObjectStore:
        from obstore.store import LocalStore, S3Store

        if not bucket:
            return LocalStore("/")
        if not {"access_key_id", "secret_access_key"} <= set(self._keys):
            # Left to itself, obstore would ask the cloud's metadata service for the node's credentials, which are
            # nobody's to use: the only ones are those of the Secret that the user names.
            raise StoreError(
                Trouble.CREDENTIALS,
                f"s3://{bucket}: there are no credentials: name a Secret with AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY",
            )
        options: Any = {"timeout": _TIMEOUT, "connect_timeout": timedelta(seconds=10)}
        options["allow_http"] = bool(self._endpoint and self._endpoint.startswith("http://"))
        if self.access.ca_file:
            options["root_certificate"] = Path(self.access.ca_file).read_bytes()
        settings: Any = {**self._keys, **({"endpoint": self._endpoint} if self._endpoint else {})}
        return S3Store(bucket, region=self._region, client_options=options, retry_config=_RETRY, **settings)

    def _say(self, error: Exception, uri: str) -> NoReturn:
        if isinstance(error, StoreError):
            raise error
        trouble, message = self._told(error)
        raise StoreError(trouble, f"{uri}: {message}") from error

    def _told(self, error: Exception) -> tuple[Trouble, str]:
        from obstore import exceptions

        text = str(error)
        found = _CODE.search(text)
        code = found.group(1) if found else ""
        at = f" at {self._endpoint}" if self._endpoint else ""
        if isinstance(error, exceptions.AlreadyExistsError):
            return Trouble.EXISTS, "it is there already"
        if code in _BAD_KEYS:
            return Trouble.CREDENTIALS, (
                f"the store{at} does not accept the credentials ({code}): check AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY in the Secret"
            )
        if code in _DENIED or isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            return Trouble.DENIED, f"the store{at} refuses access ({code or 'denied'}): check the rights of these keys"
        if isinstance(error, PermissionError):
            return Trouble.DENIED, f"this user ({os.getuid()}) may not: check the volume's rights or fsGroup"
        if code == "NoSuchBucket":
            return Trouble.NO_BUCKET, f"the store{at} has no such bucket: create it, or mend the URI"
        if isinstance(error, FileNotFoundError):
            return Trouble.NO_OBJECT, "there is no such object: mend the URI, or upload it"
        first = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
        if code:
            return Trouble.UNREACHABLE, f"the store{at} answers {code}: {first}"
        return Trouble.UNREACHABLE, f"the store{at} does not answer ({first}): check the endpoint, and that it runs"
