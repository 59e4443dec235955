"""The key-value store through which the processes of a run meet: every value in it carries a seal made with a secret.

Whoever reaches the store's port may read it, write into it and delete from it; it asks nobody who he is. So a value
counts only with the seal of somebody who knows the run's secret (HMAC-SHA256 over the key's name and the value). What
has another one ends the run, and is neither used nor shown.
"""

import hmac
import ipaddress
import json
import socket
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import torch.distributed as dist

from blocklocal._common.errors import InputError

SEAL = 32  # bytes
ANSWER_SECONDS = 10.0  # the store answers a request by then
T = TypeVar("T")


class Forged(InputError):
    """A value without the run's seal."""

    def __init__(self, key: str):
        super().__init__(
            f"somebody else wrote into the store of this run ({key}), or BLOCKLOCAL_SECRET is not the same in all its "
            "processes. What was written is not used."
        )


class SealedStore(dist.Store):
    """`base`, in which all values below `prefix` are sealed with `secret`. An empty secret is known to everybody.

    torch takes it for its own meetings too; it holds no reference, so keep one as long as the process groups live.

    Raises:
        Forged: the seal of a value that is read is not right.
        dist.DistError: the store does not answer.
    """

    def __init__(self, base: Any, secret: str, prefix: str = ""):
        super().__init__()
        self._base, self._secret, self._prefix = base, secret, prefix
        self._clones: list[SealedStore] = []

    def within(self, prefix: str) -> "SealedStore":
        """The part of it whose keys begin with `prefix/`, over the same connection."""
        return SealedStore(self._base, self._secret, f"{self._prefix}{prefix}/")

    def read(self, key: str) -> bytes | None:
        """A value, None where there is none; does not wait for it."""
        try:
            return self.get(key) if self.check([key]) else None
        except dist.DistStoreError:  # somebody has deleted it in between
            return None

    def set_first(self, key: str, value: str) -> None:
        """Set a key that nobody has set; else what is there stays."""
        self.compare_set(key, "", value)

    # --- what torch asks of a store

    def set(self, key: str, value: str | bytes) -> None:
        self._base.set(self._prefix + key, self._sealed(key, value))

    def get(self, key: str) -> bytes:
        return self._opened(key, self._base.get(self._prefix + key))

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        """An empty `expected_value` stands for no value at all."""
        before = self._sealed(key, expected_value) if expected_value else b""
        after = self._sealed(key, desired_value)
        found = self._base.compare_set(self._prefix + key, before, after)
        return self._opened(key, found)

    def add(self, key: str, value: int) -> int:
        while True:
            known = self.read(key)
            after = str(int(known or b"0") + value).encode()
            if self.compare_set(key, known or b"", after) == after:
                return int(after)

    def check(self, keys: list[str]) -> bool:
        return self._base.check([self._prefix + key for key in keys])

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        own = [self._prefix + key for key in keys]
        if timeout is None:
            self._base.wait(own)
        else:
            self._base.wait(own, timeout)

    def delete_key(self, key: str) -> bool:
        return self._base.delete_key(self._prefix + key)

    def num_keys(self) -> int:
        return self._base.num_keys()

    def set_timeout(self, timeout: timedelta) -> None:
        self._base.set_timeout(timeout)

    @property
    def timeout(self) -> timedelta:
        return self._base.timeout

    def has_extended_api(self) -> bool:
        return False

    def clone(self) -> "SealedStore":
        self._clones.append(SealedStore(self._base.clone(), self._secret, self._prefix))
        return self._clones[-1]

    deleteKey, getNumKeys = delete_key, num_keys  # as some releases of torch call them

    # --- seals

    def _seal(self, key: str, value: bytes) -> bytes:
        name, secret = (self._prefix + key).encode(), self._secret.encode("utf-8", "surrogateescape")
        return hmac.digest(secret, b"%d:%s:%s" % (len(name), name, value), "sha256")

    def _sealed(self, key: str, value: str | bytes) -> bytes:
        plain = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        return self._seal(key, plain) + plain

    def _opened(self, key: str, value: bytes) -> bytes:
        seal, plain = value[:SEAL], value[SEAL:]
        if not hmac.compare_digest(seal, self._seal(key, plain)):
            raise Forged(key)
        return plain


def as_text(value: bytes) -> str:
    """A text as it was set."""
    return value.decode("utf-8", "surrogateescape")


def decode(value: bytes, kind: type[T]) -> T:
    """JSON from the store, of the type that is expected there.

    Raises:
        InputError: it is of another type.
    """
    try:
        return msgspec.convert(json.loads(as_text(value)), kind)
    except (ValueError, RecursionError) as error:  # msgspec.ValidationError is a ValueError
        raise InputError(f"the store of this run holds something that blocklocal has not written ({error}).") from error


def hold_store(host: str, port: int, seconds: float) -> Any:
    """Hold the store at host:port (0: any that is free). Only this machine reaches one on a loopback address.

    Raises:
        OSError: the port is taken; torch may say so by a dist.DistError.
    """
    listening = None
    if is_loopback(host):
        listening, port = _listen("127.0.0.1" if host == "localhost" else host, port)
    return dist.TCPStore(
        host,
        port,
        is_master=True,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        master_listen_fd=listening,  # torch closes it
    )


def _listen(host: str, port: int) -> tuple[int, int]:
    """The file number of a socket that listens, and its port. Where the port is taken, nothing is left open."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
        port = listening.getsockname()[1]
        return listening.detach(), port


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as only itself calls it."""
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
