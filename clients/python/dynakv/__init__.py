"""A client of dynakv, a Dynamo-style distributed key-value store. It needs nothing but Python.

>>> from dynakv import Client
>>> with Client(["127.0.0.1:8080"]) as client:          # doctest: +SKIP
...     client.put("greeting", "hello")
...     print(client.get("greeting").value)
"""

from __future__ import annotations

from .client import Client, Pending, Pipeline
from .context import context_from_text, context_to_text
from .errors import (
    BadRequestError,
    ChangeRefusedError,
    ConflictError,
    ConnectionLostError,
    DirectoryLostError,
    DiskFullError,
    DuplicateNodeError,
    DynakvError,
    ForkedError,
    InternalError,
    JoinRefusedError,
    MalformedError,
    NotOwnerError,
    NotReadyError,
    OverloadedError,
    PartialFailureError,
    QuorumUnavailableError,
    RequestTimeoutError,
    StaleRingError,
    StorageError,
    TooLargeError,
    TooManySiblingsError,
    UnknownKindError,
    UnreachableError,
    VersionMismatchError,
    WouldReplaceSeveralError,
    WrongClusterError,
)
from .messages import Fetched, Health, MemberStatus, Sibling, Stats, Status, Written
from .ring import Member, Ring

__version__ = "0.1.0"

__all__ = [
    "BadRequestError",
    "ChangeRefusedError",
    "Client",
    "ConflictError",
    "ConnectionLostError",
    "DirectoryLostError",
    "DiskFullError",
    "DuplicateNodeError",
    "DynakvError",
    "Fetched",
    "ForkedError",
    "Health",
    "InternalError",
    "JoinRefusedError",
    "MalformedError",
    "Member",
    "MemberStatus",
    "NotOwnerError",
    "NotReadyError",
    "OverloadedError",
    "PartialFailureError",
    "Pending",
    "Pipeline",
    "QuorumUnavailableError",
    "RequestTimeoutError",
    "Ring",
    "Sibling",
    "StaleRingError",
    "Stats",
    "Status",
    "StorageError",
    "TooLargeError",
    "TooManySiblingsError",
    "UnknownKindError",
    "UnreachableError",
    "VersionMismatchError",
    "WouldReplaceSeveralError",
    "Written",
    "WrongClusterError",
    "context_from_text",
    "context_to_text",
]
