"""What can go wrong, as exceptions.

All of them are a :class:`DynakvError`. Whatever its class, ``maybe_applied`` and ``retryable`` say what to
do: the flags decide, the code explains (PROTOCOL.md, "Errors").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class DynakvError(Exception):
    """A request that did not succeed, or a connection that could not be made."""

    #: The name of the error in the protocol; empty for what only this client knows.
    name = ""
    #: Its number in the protocol; None for what only this client knows.
    code: int | None = None

    def __init__(
        self,
        message: str,
        *,
        maybe_applied: bool = False,
        retryable: bool = False,
        needed: int | None = None,
        got: int | None = None,
        ring_version: int | None = None,
    ) -> None:
        super().__init__(message)
        #: What happened and what to do, for people.
        self.message = message
        #: The write may exist on some replica all the same, and may yet become visible.
        self.maybe_applied = maybe_applied
        #: The same request, sent again, may succeed.
        self.retryable = retryable
        #: How many replicas were needed, if the node said so.
        self.needed = needed
        #: How many answered, if the node said so.
        self.got = got
        #: The version of the sender's ring, if it said so.
        self.ring_version = ring_version

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, whatever its class is made from: so it is copied, and goes from one process to another.
        return _as_it_was, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        notes = []
        if self.needed is not None and self.got is not None:
            notes.append(f"{self.got} of {self.needed} replicas answered")
        if self.maybe_applied:
            notes.append("the write may have been applied all the same")
        return f"{self.message} ({'; '.join(notes)})" if notes else self.message


def _as_it_was(kind: type[DynakvError], args: tuple[object, ...]) -> DynakvError:
    return kind.__new__(kind, *args)


class BadRequestError(DynakvError):
    """The request itself is wrong: its form, its key, its quorum, a context of another key."""

    name, code = "bad_request", 1


class TooLargeError(DynakvError):
    """Key, value, batch, or the key's values together are over a limit."""

    name, code = "too_large", 2


class TooManySiblingsError(DynakvError):
    """The key has too many siblings for another write: read, reconcile, write with the context."""

    name, code = "too_many_siblings", 3


class QuorumUnavailableError(DynakvError):
    """Fewer replicas answered than were needed."""

    name, code = "quorum_unavailable", 4


class RequestTimeoutError(DynakvError):
    """The deadline passed first."""

    name, code = "timeout", 5


class ConnectionLostError(RequestTimeoutError):
    """The connection ended, or fell silent, before the answer came."""


class UnreachableError(RequestTimeoutError):
    """No connection could be made, so the request was not sent."""


class OverloadedError(DynakvError):
    """The node has as much work in hand as it takes; nothing was done."""

    name, code = "overloaded", 6


class NotOwnerError(DynakvError):
    """The node does not own the key under its ring and may not pass the request on."""

    name, code = "not_owner", 7


class StaleRingError(DynakvError):
    """The request followed an older ring than the node's."""

    name, code = "stale_ring", 8


class NotReadyError(DynakvError):
    """The node is joining or shutting down."""

    name, code = "not_ready", 9


class UnknownKindError(DynakvError):
    """The node is older and does not know this message."""

    name, code = "unknown_kind", 10


class VersionMismatchError(DynakvError):
    """There is no protocol version that both sides speak."""

    name, code = "version_mismatch", 11


class WrongClusterError(DynakvError):
    """The node belongs to another cluster: check the address."""

    name, code = "wrong_cluster", 12


class DuplicateNodeError(DynakvError):
    """Another process runs under this node id (nodes only)."""

    name, code = "duplicate_node", 13


class JoinRefusedError(DynakvError):
    """A join was refused (nodes only)."""

    name, code = "join_refused", 14


class StorageError(DynakvError):
    """The node's store could not read or write."""

    name, code = "storage", 15


class MalformedError(DynakvError):
    """Bytes that are not of the protocol: a defect of the sender, or a wrong port."""

    name, code = "malformed", 16


class InternalError(DynakvError):
    """A defect of the node: report it."""

    name, code = "internal", 17


class DiskFullError(DynakvError):
    """No node with the key has room on its disk; reads go on."""

    name, code = "disk_full", 18


class DirectoryLostError(DynakvError):
    """The node has lost its data directory (nodes only)."""

    name, code = "directory_lost", 19


class WouldReplaceSeveralError(DynakvError):
    """The key has several values, and the write was to replace one at most."""

    name, code = "conflict", 20


class ChangeRefusedError(DynakvError):
    """The members of the ring cannot be changed so (operators only)."""

    name, code = "change_refused", 21


class ForkedError(DynakvError):
    """The client was made before a fork, in another process: it has no threads here, and its connections are those
    of that process. Make one in each process."""


class ConflictError(DynakvError):
    """The key has several values and one was asked for.

    ``siblings`` holds them. Merge their values and write the result with ``context``.
    """

    def __init__(self, siblings: Sequence[object], context: bytes) -> None:
        super().__init__(
            f"the key has {len(siblings)} conflicting values: merge them and put the result "
            "with the context of this read"
        )
        self.siblings = siblings
        self.context = context


class PartialFailureError(DynakvError):
    """Some of the requests of a ``get_many`` or ``put_many`` failed.

    ``results`` has one entry for each request, in their order: its result, or its exception.
    """

    def __init__(self, results: Sequence[object]) -> None:
        failures = [result for result in results if isinstance(result, DynakvError)]
        super().__init__(
            f"{len(failures)} of {len(results)} requests failed, the first one with: {failures[0]}",
            maybe_applied=any(failure.maybe_applied for failure in failures),
            retryable=all(failure.retryable for failure in failures),
        )
        self.results = results
        self.failures = failures


_BY_CODE: dict[int, type[DynakvError]] = {
    kind.code: kind
    for kind in (
        BadRequestError,
        TooLargeError,
        TooManySiblingsError,
        QuorumUnavailableError,
        RequestTimeoutError,
        OverloadedError,
        NotOwnerError,
        StaleRingError,
        NotReadyError,
        UnknownKindError,
        VersionMismatchError,
        WrongClusterError,
        DuplicateNodeError,
        JoinRefusedError,
        StorageError,
        MalformedError,
        InternalError,
        DiskFullError,
        DirectoryLostError,
        WouldReplaceSeveralError,
        ChangeRefusedError,
    )
    if kind.code is not None
}


def error_of_code(
    code: int,
    message: str,
    *,
    maybe_applied: bool,
    retryable: bool,
    needed: int | None = None,
    got: int | None = None,
    ring_version: int | None = None,
) -> DynakvError:
    """The exception for an error that a node sent. One with an unknown code goes by its flags."""
    kind = _BY_CODE.get(code, DynakvError)
    error = kind(
        message,
        maybe_applied=maybe_applied,
        retryable=retryable,
        needed=needed,
        got=got,
        ring_version=ring_version,
    )
    error.code = code
    return error
