"""The key of an endpoint: read where it is used, shown nowhere."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import orjson

from gra_hpc.config.endpoint import EndpointConfig
from gra_hpc.errors import EngineError
from gra_hpc.terminal import word

_SHOWN = "[key]"


class Key:
    """A secret that has no representation of its own, so that no log, trace or pickle can hold it.

    Args:
        name: of the model, for messages.
    """

    __slots__ = ("_endpoint", "_held", "_name", "_secret")

    def __init__(self, name: str, endpoint: EndpointConfig) -> None:
        self._name, self._endpoint = name, endpoint
        self._secret = ""
        self._held: set[str] = set()
        self.read()

    def read(self) -> bool:
        """Read it anew.

        Returns:
            Whether it is another one than before.

        Raises:
            EngineError: it is not there, or others may read it.
        """
        before, self._secret = self._secret, _secret(self._name, self._endpoint)
        self._held |= {self._secret} - {""}  # answers to one that was renewed may still come
        return self._secret != before

    @property
    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self._secret}"} if self._secret else {}

    def without(self, data: bytes) -> bytes:
        """What a server said, without any key that was held, should it repeat it; also in JSON that escapes it."""
        said = self._masked(data)
        if self._held and b"\\" in said:
            with contextlib.suppress(orjson.JSONDecodeError):
                plain = orjson.dumps(orjson.loads(said))
                if (masked := self._masked(plain)) != plain:
                    return masked
        return said

    def _masked(self, data: bytes) -> bytes:
        for secret in self._held:
            for form in (secret.encode(), orjson.dumps(secret)[1:-1]):
                data = data.replace(form, _SHOWN.encode())
        return data

    def __bool__(self) -> bool:
        return bool(self._secret)

    def __repr__(self) -> str:
        return _SHOWN

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def _secret(name: str, endpoint: EndpointConfig) -> str:
    if endpoint.key_env:
        found = os.environ.get(endpoint.key_env, "").strip()
        if not found:
            raise EngineError(
                f"models.{name}.endpoint.key_env={endpoint.key_env}: this variable is not set here",
                f"export {endpoint.key_env}=..., or a file: models.{name}.endpoint.key_file=FILE (chmod 600)",
            )
    elif endpoint.key_file:
        found = _from_file(name, Path(endpoint.key_file).expanduser())
    else:
        return ""
    if not found.isascii() or not found.isprintable() or " " in found:
        raise EngineError(
            f"models.{name}.endpoint: its key is not one word of plain characters", "put the key alone there"
        )
    return found


def _from_file(name: str, path: Path) -> str:
    try:
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK | os.O_CLOEXEC)) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                raise EngineError(
                    f"models.{name}.endpoint.key_file={path}: not a file of yours", "make one of your own"
                )
            if status.st_mode & 0o077:
                raise EngineError(
                    f"models.{name}.endpoint.key_file={path}: others may read or write it"
                    f" (mode {stat.S_IMODE(status.st_mode):o})",
                    f"chmod 600 {word(path)}, and ask for another key if anybody else could have read it",
                )
            found = f.read(65_536).decode("utf-8", "replace").strip()
    except OSError as e:
        raise EngineError(f"models.{name}.endpoint.key_file={path}: {e.strerror}", "give a file of yours") from None
    if not found:
        raise EngineError(f"models.{name}.endpoint.key_file={path}: empty", "put the key alone there")
    return found
