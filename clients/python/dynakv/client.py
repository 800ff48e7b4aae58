"""The client: routes each request to an owner of its key, and retries it elsewhere when that fails."""

from __future__ import annotations

import random
import secrets
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from . import messages
from .connection import Call, Connection
from .errors import (
    BadRequestError,
    DynakvError,
    NotReadyError,
    PartialFailureError,
    RequestTimeoutError,
    TooLargeError,
    UnreachableError,
    WrongClusterError,
)
from .messages import Fetched, Health, Stats, Status, Written
from .ring import Ring
from .wire import (
    CONTEXT_BYTES_MAX,
    KEY_BYTES_MAX,
    TIMEOUT_MS_MAX,
    VALUE_BYTES_MAX,
    Bytes,
    split_address,
)

Key = Union[str, Bytes]
Value = Union[str, Bytes]

#: A node says itself that a deadline has passed; its answer gets this long to arrive.
_GRACE_S = 0.25
#: How long an attempt to connect may take, as a share of the client's timeout.
_CONNECT_SHARE = 0.3
#: After this share of the timeout without a byte a node is pinged, after three times as much given up.
_SILENCE_SHARE = 0.15
#: A node that failed is asked last for this long, then twice as long, and so on.
_AVOID_MIN_S = 0.1
_AVOID_MAX_S = 2.0
#: After all nodes failed they are tried again after this long, then twice as long, and so on.
_BACK_OFF_MIN_S = 0.02
_BACK_OFF_MAX_S = 0.5
#: An open ring can change at any time, and no answer says so.
_OPEN_RING_AGE_S = 1.0
#: How many requests, and how many bytes of them, are in flight at most.
_IN_FLIGHT_MAX = 4096
_IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024


class _Node:
    """An address, its connection, and how it fared."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.dialling = threading.Lock()
        self.connection: Optional[Connection] = None
        self.failures = 0
        self.avoid_until = 0.0

    def failed(self) -> None:
        self.failures += 1
        pause = min(_AVOID_MIN_S * 2 ** min(self.failures, 10), _AVOID_MAX_S)
        self.avoid_until = time.monotonic() + pause

    def worked(self) -> None:
        self.failures, self.avoid_until = 0, 0.0


class _Operation:
    """A request of the caller, through all its attempts."""

    def __init__(
        self,
        kind: int,
        body: Callable[[int], Bytes],
        decode: Callable[[Bytes], Any],
        deadline: float,
        key: Optional[bytes] = None,
        is_write: bool = False,
        size: int = 0,
        only: Optional[str] = None,
        passes_max: Optional[int] = None,
    ) -> None:
        self.kind = kind
        self.body = body
        self.decode = decode
        self.deadline = deadline
        self.key = key
        self.is_write = is_write
        self.size = size
        self.only = only
        self.passes_max = passes_max
        #: Whom to ask next in this pass; None before the first.
        self.plan: Optional[List[_Node]] = None
        self.passes = 0
        self.not_before = 0.0
        #: Whether anybody in this pass failed in a way that may be over soon.
        self.hopeful = False
        #: Whether an earlier attempt may have been applied.
        self.doubt = False
        self.node: Optional[_Node] = None
        self.connection: Optional[Connection] = None
        self.call: Optional[Call] = None
        self.done = False
        self.result: Any = None
        self.error: Optional[DynakvError] = None

    def succeed(self, result: Any) -> None:
        self.done, self.result, self.error = True, result, None

    def fail(self, error: DynakvError) -> None:
        error.maybe_applied = error.maybe_applied or self.doubt
        self.done, self.error = True, error

    def note(self, error: DynakvError) -> None:
        """An attempt failed; another may follow."""
        self.doubt = self.doubt or error.maybe_applied
        self.hopeful = self.hopeful or error.retryable
        # What a node said tells more than that another one could not be asked.
        if self.error is None or not isinstance(error, UnreachableError):
            self.error = error

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class Client:
    """A client of a cluster. It may be used by any number of threads at once, but not across a fork.

    :param seeds: ``host:port`` of some nodes. The others are learnt from them.
    :param cluster: the cluster's name, which nodes of another one refuse; empty for whichever it is.
    :param timeout: how many seconds a request may take, with all its retries.
    :param route: ask owners directly; without it only the seeds are asked, and pass requests on.

    Nothing is sent before the first request. Within its timeout a request is tried at one node after the
    other; a write keeps its id, so that it is applied once. An error that is raised says in
    ``maybe_applied`` whether some attempt may have succeeded all the same.
    """

    def __init__(
        self,
        seeds: Iterable[str],
        cluster: str = "",
        timeout: float = 5.0,
        route: bool = True,
    ) -> None:
        self._seeds = list(seeds)
        if not self._seeds:
            raise ValueError("a client needs at least one address")
        for seed in self._seeds:
            split_address(seed)
        if len(cluster.encode()) > 255:
            raise ValueError("a cluster's name has at most 255 bytes")
        self._cluster = cluster
        self._timeout = _seconds(timeout)
        self._route = route
        self._lock = threading.Lock()
        self._nodes: Dict[str, _Node] = {}
        self._closed = False
        self._cluster_id = 0
        self._ring: Optional[Ring] = None
        self._ring_looked_at = 0.0
        self._ring_wanted: Tuple[int, Optional[str]] = (0, None)
        self._ring_fetching = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections; requests that wait for an answer fail."""
        with self._lock:
            self._closed = True
            nodes = list(self._nodes.values())
        for node in nodes:
            connection = node.connection
            if connection is not None:
                connection.close()
                connection.join()

    # Data.

    def get(
        self,
        key: Key,
        *,
        r: Optional[int] = None,
        repair_first: bool = False,
        timeout: Optional[float] = None,
    ) -> Fetched:
        """Reads a key.

        :param r: how many replicas must answer; the cluster's default when None.
        :param repair_first: mend stale replicas before the answer instead of after it.
        """
        fetched: Fetched = self._run(self._get(key, r, repair_first, timeout))
        return fetched

    def put(
        self,
        key: Key,
        value: Value,
        context: Optional[bytes] = None,
        w: Optional[int] = None,
        ttl: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> Written:
        """Stores a value.

        :param context: that of the read which this write answers. Without one the write is blind.
        :param w: how many replicas must have it on disk; the cluster's default when None.
        :param ttl: the value expires after this many seconds.
        """
        written: Written = self._run(self._put(key, value, context, w, ttl, timeout))
        return written

    def delete(
        self,
        key: Key,
        context: Optional[bytes] = None,
        w: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> Written:
        """Deletes a key; one that is absent, too."""
        written: Written = self._run(self._delete(key, context, w, timeout))
        return written

    def get_many(
        self, keys: Iterable[Key], *, r: Optional[int] = None, timeout: Optional[float] = None
    ) -> List[Fetched]:
        """Reads many keys, many to a frame; the results are in the order of the keys.

        The timeout is that of each group of at most 4,096 keys. When some fail, PartialFailureError
        holds the results of all.
        """
        return self._run_many(self._get(key, r, False, timeout) for key in keys)

    def put_many(
        self,
        items: Union[Mapping[Any, Value], Iterable[Tuple[Key, Value]]],
        *,
        w: Optional[int] = None,
        ttl: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> List[Written]:
        """Stores many values, many to a frame, all of them blind writes. See :meth:`get_many`."""
        pairs = items.items() if isinstance(items, Mapping) else items
        return self._run_many(
            self._put(key, value, None, w, ttl, timeout) for key, value in pairs
        )

    def pipeline(self) -> Pipeline:
        """Requests that are sent at once and waited for later."""
        return Pipeline(self)

    # Nodes.

    def stats(self, address: Optional[str] = None) -> Stats:
        """Counts of the node at this address, or of any."""
        stats: Stats = self._ask(messages.STATS, messages.read_stats, address)
        return stats

    def health(self, address: Optional[str] = None) -> Health:
        """Whether the node at this address, or any, can coordinate requests."""
        health: Health = self._ask(messages.HEALTH, messages.read_health, address)
        return health

    def status(self, address: Optional[str] = None) -> Status:
        """The members, as the node at this address, or any, sees them."""
        status: Status = self._ask(messages.STATUS, messages.read_status, address)
        return status

    def ring(self, address: Optional[str] = None) -> Ring:
        """The newest ring that the node at this address, or any, knows."""
        ring: Ring = self._ask(messages.RING, messages.read_ring, address)
        self._take_ring(ring)
        return ring

    def ping(self, address: Optional[str] = None) -> None:
        """Waits for a sign of life from the node at this address, or from any."""
        self._ask(messages.PING, messages.read_nothing, address)

    # Making operations.

    def _get(
        self, key: Key, r: Optional[int], repair_first: bool, timeout: Optional[float]
    ) -> _Operation:
        key = _key(key)
        _check_quorum("r", r)
        return _Operation(
            messages.GET,
            lambda timeout_ms: messages.get(timeout_ms, key, r, repair_first),
            messages.read_fetched,
            self._deadline(timeout),
            key=key,
            size=len(key),
        )

    def _put(
        self,
        key: Key,
        value: Value,
        context: Optional[bytes],
        w: Optional[int],
        ttl: Optional[float],
        timeout: Optional[float],
    ) -> _Operation:
        key, value = _key(key), _octets("value", value)
        if len(value) > VALUE_BYTES_MAX:
            raise TooLargeError(
                f"a value has at most {VALUE_BYTES_MAX} bytes, this one {len(value)}"
            )
        context = _context(context)
        _check_quorum("w", w)
        ttl_ms = None if ttl is None else max(1, round(_seconds(ttl) * 1000))
        write_id = secrets.randbits(128)
        return _Operation(
            messages.PUT,
            lambda timeout_ms: messages.put(timeout_ms, write_id, key, value, w, context, ttl_ms),
            messages.read_written,
            self._deadline(timeout),
            key=key,
            is_write=True,
            size=len(key) + len(value),
        )

    def _delete(
        self, key: Key, context: Optional[bytes], w: Optional[int], timeout: Optional[float]
    ) -> _Operation:
        key, context = _key(key), _context(context)
        _check_quorum("w", w)
        write_id = secrets.randbits(128)
        return _Operation(
            messages.DELETE,
            lambda timeout_ms: messages.delete(timeout_ms, write_id, key, w, context),
            messages.read_written,
            self._deadline(timeout),
            key=key,
            is_write=True,
            size=len(key),
        )

    def _ask(self, kind: int, decode: Callable[[Bytes], Any], address: Optional[str]) -> Any:
        if address is not None:
            split_address(address)
        deadline = self._deadline(None)
        # Who asks about nodes wants to hear that none is there, and not only at the deadline.
        return self._run(
            _Operation(kind, lambda _: b"", decode, deadline, only=address, passes_max=1)
        )

    def _deadline(self, timeout: Optional[float]) -> float:
        return time.monotonic() + (self._timeout if timeout is None else _seconds(timeout))

    # Running operations.

    def _run(self, operation: _Operation) -> Any:
        self._start([operation])
        self._settle([operation])
        return operation.outcome()

    def _run_many(self, operations: Iterable[_Operation]) -> List[Any]:
        finished: List[_Operation] = []
        group: List[_Operation] = []
        size = 0
        for operation in operations:
            group.append(operation)
            size += operation.size
            if len(group) >= _IN_FLIGHT_MAX or size >= _IN_FLIGHT_BYTES_MAX:
                self._start(group)
                self._settle(group)
                finished += group
                group, size = [], 0
        self._start(group)
        self._settle(group)
        finished += group
        results = [each.result if each.error is None else each.error for each in finished]
        if any(each.error is not None for each in finished):
            raise PartialFailureError(results)
        return results

    def _start(self, operations: Sequence[_Operation]) -> None:
        """Sends each of them to a node, or finds that there is none."""
        waiting = list(operations)
        while waiting:
            self._refresh_ring(waiting)
            groups: Dict[str, List[_Operation]] = {}
            for operation in waiting:
                self._choose(operation)
                if not operation.done and operation.node is not None:
                    groups.setdefault(operation.node.address, []).append(operation)
            waiting = []
            for group in groups.values():
                waiting += self._send(group)

    def _choose(self, operation: _Operation) -> None:
        """The next node to ask, after a pause when all have been asked."""
        if operation.plan is None:
            operation.plan = self._plan(operation)
        elif not operation.plan:
            operation.passes += 1
            no_use = not operation.hopeful
            if no_use or operation.passes == operation.passes_max:
                operation.fail(operation.error or UnreachableError("there is no node to ask"))
                return
            pause = min(_BACK_OFF_MIN_S * 2 ** min(operation.passes, 10), _BACK_OFF_MAX_S)
            # All that failed together begin their pause together, so only the first one waits.
            operation.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            operation.hopeful = False
            operation.plan = self._plan(operation)
        now = time.monotonic()
        if now < operation.not_before:
            time.sleep(max(0.0, min(operation.not_before, operation.deadline) - now))
            now = time.monotonic()
        if now >= operation.deadline:
            error = RequestTimeoutError("the deadline passed before a node could be asked")
            operation.fail(operation.error or error)
            return
        operation.node = operation.plan.pop(0)

    def _send(self, group: List[_Operation]) -> List[_Operation]:
        """Sends these to the node that each has chosen; gives back those that have to choose again."""
        node = group[0].node
        assert node is not None, "each of them has chosen"
        deadline = max(operation.deadline for operation in group)
        try:
            connection = self._connect(node, deadline)
        except DynakvError as error:
            for operation in group:
                operation.note(error)
            return group
        calls = []
        now = time.monotonic()
        for operation in group:
            left_ms = min(max(1, int((operation.deadline - now) * 1000)), TIMEOUT_MS_MAX)
            body = operation.body(left_ms)
            operation.call = Call(operation.kind, body, operation.decode, operation.is_write)
            operation.connection = connection
            calls.append(operation.call)
        connection.send(calls, deadline)
        return []

    def _settle(self, operations: Sequence[_Operation]) -> None:
        """Waits until each of them has succeeded, or failed for good."""
        waiting = [operation for operation in operations if not operation.done]
        while waiting:
            for operation in waiting:
                self._await(operation)
            waiting = [operation for operation in waiting if not operation.done]
            self._start(waiting)
            waiting = [operation for operation in waiting if not operation.done]

    def _await(self, operation: _Operation) -> None:
        """Waits for the answer of an attempt."""
        call, node, connection = operation.call, operation.node, operation.connection
        assert call is not None and node is not None and connection is not None, "it was sent"
        left = operation.deadline + _GRACE_S - time.monotonic()
        try:
            operation.succeed(call.answer.result(timeout=max(left, 0)))
            node.worked()
            return
        except FutureTimeoutError:
            connection.forget(call)
            message = f"{node.address} did not answer before the deadline"
            error: DynakvError = RequestTimeoutError(
                message, maybe_applied=operation.is_write, retryable=True
            )
        except DynakvError as raised:
            error = raised
        if isinstance(error, RequestTimeoutError) or error.code in (6, 9):
            node.failed()
        if error.ring_version is not None:
            self._want_ring(error.ring_version, node.address)
        operation.note(error)
        if not error.retryable or time.monotonic() >= operation.deadline:
            operation.fail(error)

    # Nodes and the ring.

    def _node(self, address: str) -> _Node:
        with self._lock:
            node = self._nodes.get(address)
            if node is None:
                node = self._nodes[address] = _Node(address)
            return node

    def _plan(self, operation: _Operation) -> List[_Node]:
        """Whom to ask, best first: owners, other members, seeds; those that failed just now last."""
        if operation.only is not None:
            return [self._node(operation.only)]
        addresses: List[str] = []
        ring = self._ring
        if self._route and ring is not None:
            members = list(ring.members)
            random.shuffle(members)
            if operation.key is not None and ring.computable:
                members = [*ring.owners(operation.key), *members]
            addresses += [member.address for member in members]
        seeds = list(self._seeds)
        if not addresses:
            random.shuffle(seeds)
        addresses += seeds
        nodes = [self._node(address) for address in dict.fromkeys(addresses)]
        now = time.monotonic()
        return sorted(nodes, key=lambda node: node.avoid_until > now)

    def _connect(self, node: _Node, deadline: float) -> Connection:
        connection = node.connection
        if connection is not None and connection.alive:
            return connection
        left = deadline - time.monotonic()
        if not node.dialling.acquire(timeout=max(left, 0)):
            raise UnreachableError(f"{node.address} is still being dialled", retryable=True)
        try:
            if self._closed:
                raise UnreachableError("this client was closed")
            connection = node.connection
            if connection is not None and connection.alive:
                return connection
            patience = min(deadline - time.monotonic(), self._timeout * _CONNECT_SHARE)
            connection = Connection.open(
                node.address,
                self._cluster,
                self._cluster_id,
                patience,
                self._timeout * _SILENCE_SHARE,
            )
            self._admit(connection)
            node.connection = connection
            if self._closed:
                connection.close()
            return connection
        except DynakvError:
            node.failed()
            raise
        finally:
            node.dialling.release()

    def _admit(self, connection: Connection) -> None:
        """Keeps to the first cluster that was met."""
        welcome = connection.welcome
        with self._lock:
            if self._cluster_id == 0:
                self._cluster_id = welcome.cluster_id
            pinned = self._cluster_id
        if welcome.cluster_id != pinned:
            connection.close("it is of another cluster")
            if welcome.cluster_id == 0:
                message = f"{connection.address} has not joined the cluster yet"
                raise NotReadyError(message, retryable=True)
            raise WrongClusterError(
                f"{connection.address} belongs to another cluster of the name {welcome.cluster!r}"
            )
        self._want_ring(welcome.ring_version, connection.address)

    def _want_ring(self, version: int, address: str) -> None:
        with self._lock:
            if version > self._ring_wanted[0]:
                self._ring_wanted = (version, address)

    def _take_ring(self, ring: Ring) -> None:
        with self._lock:
            if self._cluster_id and ring.cluster_id != self._cluster_id:
                return
            if self._ring is None or ring.version >= self._ring.version:
                self._ring = ring

    def _refresh_ring(self, operations: Sequence[_Operation]) -> None:
        """Fetches the ring when a newer one is known of. Without one requests are passed on by nodes."""
        if not self._route or all(operation.key is None for operation in operations):
            return
        if self._ring is None and self._ring_wanted[1] is None:
            self._meet_somebody(operations)
        wanted, address = self._ring_wanted
        ring, now = self._ring, time.monotonic()
        have = ring.version if ring is not None else 0
        due = wanted > have or (ring is not None and not ring.final)
        if not due or now - self._ring_looked_at < (_OPEN_RING_AGE_S if have else 0.1):
            return
        if not self._ring_fetching.acquire(blocking=False):
            return
        try:
            left = max(operation.deadline for operation in operations) - now
            deadline = now + min(left, self._timeout * _CONNECT_SHARE)
            fetch = _Operation(
                messages.RING, lambda _: b"", messages.read_ring, deadline,
                only=address if wanted > have else None, passes_max=1,
            )
            self._run(fetch)
            self._take_ring(fetch.result)
        except DynakvError:
            pass  # The request itself will tell what is wrong, if it matters.
        finally:
            self._ring_looked_at = time.monotonic()
            self._ring_fetching.release()

    def _meet_somebody(self, operations: Sequence[_Operation]) -> None:
        """Makes the first connection, whose welcome says whether there is a ring."""
        deadline = max(operation.deadline for operation in operations)
        for node in self._plan(operations[0]):
            if time.monotonic() >= deadline:
                return
            try:
                self._connect(node, deadline)
                return
            except DynakvError:
                continue


class Pending:
    """A request of a pipeline."""

    def __init__(self, pipeline: Pipeline, operation: _Operation) -> None:
        self._pipeline = pipeline
        self._operation = operation

    def result(self) -> Any:
        """Waits for the answer: Fetched or Written, or the exception."""
        if not self._operation.done:
            self._pipeline._finish(self._operation)
        return self._operation.outcome()


class Pipeline:
    """Sends each request at once and waits for none. To be used by one thread.

    The requests are in flight together, so they may take effect in any order: wait for a write before
    sending what builds on it. At the end of the ``with`` block all answers are there.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: List[_Operation] = []
        self._bytes = 0

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, exception_type: object, *_exception: object) -> None:
        if exception_type is None:
            self.wait()

    def get(self, key: Key, *, r: Optional[int] = None, repair_first: bool = False) -> Pending:
        """See :meth:`Client.get`."""
        return self._add(self._client._get(key, r, repair_first, None))

    def put(
        self,
        key: Key,
        value: Value,
        context: Optional[bytes] = None,
        w: Optional[int] = None,
        ttl: Optional[float] = None,
    ) -> Pending:
        """See :meth:`Client.put`."""
        return self._add(self._client._put(key, value, context, w, ttl, None))

    def delete(
        self, key: Key, context: Optional[bytes] = None, w: Optional[int] = None
    ) -> Pending:
        """See :meth:`Client.delete`."""
        return self._add(self._client._delete(key, context, w, None))

    def wait(self) -> None:
        """Waits until all have been answered. What failed is raised by its ``result()``."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        self._client._settle(waiting)

    def _add(self, operation: _Operation) -> Pending:
        if len(self._waiting) >= _IN_FLIGHT_MAX or self._bytes >= _IN_FLIGHT_BYTES_MAX:
            self.wait()
        self._client._start([operation])
        self._waiting.append(operation)
        self._bytes += operation.size
        return Pending(self, operation)

    def _finish(self, operation: _Operation) -> None:
        self._client._await(operation)
        if not operation.done:
            # It has to be tried again, and so have others, most likely: all together.
            self.wait()


def _octets(what: str, value: Value) -> Bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (bytes, bytearray)):
        return value
    raise TypeError(f"a {what} is bytes or str, not {type(value).__name__}")


def _key(key: Key) -> bytes:
    octets = bytes(_octets("key", key))
    if not octets:
        raise BadRequestError("a key has at least one byte")
    if len(octets) > KEY_BYTES_MAX:
        raise TooLargeError(f"a key has at most {KEY_BYTES_MAX} bytes, this one {len(octets)}")
    return octets


def _context(context: Optional[bytes]) -> Optional[bytes]:
    if context is None:
        return None
    if not isinstance(context, (bytes, bytearray)):
        raise TypeError(f"a context is the bytes of a read, not {type(context).__name__}")
    if len(context) > CONTEXT_BYTES_MAX:
        raise TooLargeError(f"a context has at most {CONTEXT_BYTES_MAX} bytes")
    return bytes(context)


def _check_quorum(name: str, count: Optional[int]) -> None:
    if count is not None and not 1 <= count <= 255:
        raise BadRequestError(f"{name} is 1 to 255, not {count}")


def _seconds(value: float) -> float:
    if not value > 0 or value == float("inf"):
        raise ValueError(f"a time is a number of seconds above 0, not {value}")
    return float(value)
