"""A request through all its attempts, the nodes it is tried at, and what is checked before the first."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterable
from typing import Any, Callable, Union

from .connection import Call, Connection
from .errors import BadRequestError, DynakvError, TooLargeError, UnreachableError
from .wire import CONTEXT_BYTES_MAX, KEY_BYTES_MAX, Bytes, split_address

Key = Union[str, Bytes]
Value = Union[str, Bytes]

#: A node that failed is asked last for this long, then twice as long, and so on.
_AVOID_MIN_S = 0.1
_AVOID_MAX_S = 2.0

#: A hundred years: it fits into every field and every clock.
_SECONDS_MAX = 100 * 365 * 86_400.0


class Node:
    """An address, its connection, and how it fared."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.dialling = threading.Lock()
        self.connection: Connection | None = None
        self.failures = 0
        self.avoid_until = 0.0

    def failed(self) -> None:
        """It could not be asked."""
        self.failures += 1
        pause = min(_AVOID_MIN_S * 2 ** min(self.failures, 10), _AVOID_MAX_S)
        self.avoid_until = time.monotonic() + pause

    def worked(self) -> None:
        """It answered."""
        self.failures, self.avoid_until = 0, 0.0


class Operation:
    """A request of the caller, through all its attempts."""

    def __init__(
        self,
        kind: int,
        body: Callable[[int, bool], Bytes],
        decode: Callable[[Bytes], Any],
        deadline: float,
        key: bytes | None = None,
        is_write: bool = False,
        size: int = 0,
        only: str | None = None,
        passes_max: int | None = None,
    ) -> None:
        self.kind = kind
        #: The body of an attempt: given its milliseconds, and whether an earlier one may have been applied.
        self.body = body
        self.decode = decode
        self.deadline = deadline
        self.key = key
        self.is_write = is_write
        self.size = size
        self.only = only
        self.passes_max = passes_max
        #: Whom to ask next in this pass; None before the first.
        self.plan: list[Node] | None = None
        self.passes = 0
        #: When the last attempt failed.
        self.failed_at = 0.0
        self.not_before = 0.0
        #: Whether anybody in this pass failed in a way that may be over soon.
        self.hopeful = False
        #: Whether an earlier attempt may have been applied.
        self.doubt = False
        self.node: Node | None = None
        self.connection: Connection | None = None
        self.call: Call | None = None
        self.done = False
        self.result: Any = None
        self.error: DynakvError | None = None

    def succeed(self, result: Any) -> None:
        """Ends it."""
        self.done, self.result, self.error = True, result, None

    def fail(self, error: DynakvError) -> None:
        """Ends it without a result."""
        if self.doubt and not error.maybe_applied:
            # Others may have failed with the same exception and without doubt.
            error = copy.copy(error)
            error.maybe_applied = True
        self.done, self.error = True, error

    def note(self, error: DynakvError) -> None:
        """An attempt failed; another may follow."""
        self.failed_at = time.monotonic()
        self.doubt = self.doubt or error.maybe_applied
        self.hopeful = self.hopeful or error.retryable
        # What a node said tells more than that another one could not be asked.
        if self.error is None or not isinstance(error, UnreachableError):
            self.error = error

    def outcome(self) -> Any:
        """The result, or the exception."""
        if self.error is not None:
            raise self.error
        return self.result


def octets(what: str, value: Value) -> Bytes:
    """Bytes; a string is its UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (bytes, bytearray)):
        return value
    raise TypeError(f"a {what} is bytes or str, not {type(value).__name__}")


def key_of(key: Key) -> bytes:
    """A key, checked."""
    encoded = bytes(octets("key", key))
    if not encoded:
        raise BadRequestError("a key has at least one byte")
    if len(encoded) > KEY_BYTES_MAX:
        raise TooLargeError(f"a key has at most {KEY_BYTES_MAX} bytes, this one {len(encoded)}")
    return encoded


def context_of(context: bytes | None) -> bytes | None:
    """A context, checked as far as it can be here."""
    if context is None:
        return None
    if not isinstance(context, (bytes, bytearray)):
        raise TypeError(f"a context is the bytes of a read, not {type(context).__name__}")
    if len(context) > CONTEXT_BYTES_MAX:
        raise TooLargeError(f"a context has at most {CONTEXT_BYTES_MAX} bytes")
    return bytes(context)


def addresses_of(seeds: Union[str, Iterable[str]]) -> list[str]:
    """The addresses of some nodes, checked. A string is one, or several with commas between them."""
    if isinstance(seeds, (bytes, bytearray, memoryview)):
        raise TypeError(f"seeds are a str or several, not {type(seeds).__name__}")
    if isinstance(seeds, str):
        seeds = [seed.strip() for seed in seeds.split(",")]
    addresses = list(seeds)
    if not addresses:
        raise ValueError("a client needs at least one address")
    for address in addresses:
        if not isinstance(address, str):
            raise TypeError(f"an address is a str, not {type(address).__name__}")
        split_address(address)
    return addresses


def check_quorum(name: str, count: int | None) -> None:
    """What fits into the field; the node knows what is possible."""
    if count is not None and not 1 <= count <= 255:
        raise BadRequestError(f"{name} is 1 to 255, not {count}")


def seconds(value: float) -> float:
    """A length of time, checked."""
    if not 0 < value <= _SECONDS_MAX:
        raise ValueError(f"a time is a number of seconds from 0 to {_SECONDS_MAX:.0f}, not {value}")
    return float(value)
