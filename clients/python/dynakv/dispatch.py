"""Sends operations to nodes: who is asked, over which connection, and who is asked next."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from . import messages
from .connection import Call, Connection
from .errors import (
    DynakvError,
    ForkedError,
    NotReadyError,
    RequestTimeoutError,
    UnreachableError,
    WrongClusterError,
)
from .operation import Node, Operation
from .ring import Ring
from .wire import TIMEOUT_MS_MAX

#: A node says itself that a deadline has passed; its answer gets this long to arrive.
_GRACE_S = 0.25
#: How long an attempt to connect may take, as a share of the client's timeout.
_CONNECT_SHARE = 0.3
#: After this share of the timeout without a byte a node is pinged, after three times as much given up.
_SILENCE_SHARE = 0.15
#: After all nodes failed they are tried again after this long, then twice as long, and so on.
_BACK_OFF_MIN_S = 0.02
_BACK_OFF_MAX_S = 0.5
#: An open ring can change at any time, and no answer says so.
_OPEN_RING_AGE_S = 1.0
#: How many requests, and how many bytes of them, are in flight at most.
IN_FLIGHT_MAX = 4096
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024


class Dispatcher:
    """The nodes of a cluster, and the way to them. Any number of threads may use it."""

    def __init__(self, seeds: list[str], cluster: str, timeout_s: float, route: bool) -> None:
        self._seeds = seeds
        self._cluster = cluster
        self._timeout = timeout_s
        self._route = route
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._nodes: dict[str, Node] = {}
        self._closed = False
        self._cluster_id = 0
        self._ring: Ring | None = None
        self._ring_looked_at = 0.0
        self._ring_wanted: tuple[int, str | None] = (0, None)
        self._ring_fetching = threading.Lock()

    def close(self) -> None:
        """Ends all connections. A fork lets go of what it has inherited, and ends nothing for its parent."""
        if self._is_forked():
            # No lock: whoever had it when the fork was made is not here to let go of it.
            for node in self._nodes.values():
                if node.connection is not None:
                    node.connection.let_go()
            return
        with self._lock:
            self._closed = True
            nodes = list(self._nodes.values())
        for node in nodes:
            connection = node.connection
            if connection is not None:
                connection.close()
                connection.join()

    def _is_forked(self) -> bool:
        return os.getpid() != self._process

    def _check_process(self, maybe_applied: bool = False) -> None:
        """Raises after a fork. Before any lock is taken: it may be one that nobody here can release."""
        if self._is_forked():
            message = (
                f"this client was made in process {self._process}, before the fork of process {os.getpid()}: its "
                f"connections are not shared; make a Client in each process"
            )
            raise ForkedError(message, maybe_applied=maybe_applied)

    # Running operations.

    def run(self, operation: Operation) -> Any:
        """Carries one out; gives its result or raises."""
        self.start([operation])
        self.settle([operation])
        return operation.outcome()

    def start(self, operations: Sequence[Operation]) -> None:
        """Sends each of them to a node, or finds that there is none."""
        self._check_process()
        waiting = list(operations)
        while waiting:
            self._refresh_ring(waiting)
            groups: dict[str, list[Operation]] = {}
            for operation in waiting:
                self._choose(operation)
                if not operation.done and operation.node is not None:
                    groups.setdefault(operation.node.address, []).append(operation)
            waiting = []
            for group in groups.values():
                waiting += self._send(group)

    def _choose(self, operation: Operation) -> None:
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
            # Those that failed together pause together: when the first of them has waited, so have all.
            operation.not_before = operation.failed_at + pause * random.uniform(0.5, 1.0)
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

    def _send(self, group: list[Operation]) -> list[Operation]:
        """Sends these to the node that each has chosen; gives back those that have to choose again."""
        node = group[0].node
        assert node is not None, "each of them has chosen"
        deadline = max(operation.deadline for operation in group)
        try:
            about_data = any(operation.key is not None for operation in group)
            connection = self._connect(node, deadline, about_data)
        except DynakvError as error:
            for operation in group:
                operation.note(error)
            return group
        calls = []
        now = time.monotonic()
        for operation in group:
            left_ms = min(max(1, int((operation.deadline - now) * 1000)), TIMEOUT_MS_MAX)
            body = operation.body(left_ms, operation.doubt)
            operation.call = Call(operation.kind, body, operation.decode, operation.is_write)
            operation.connection = connection
            calls.append(operation.call)
        connection.send(calls, deadline)
        return []

    def settle(self, operations: Sequence[Operation]) -> None:
        """Waits until each of them has succeeded, or failed for good."""
        waiting = [operation for operation in operations if not operation.done]
        while waiting:
            for operation in waiting:
                self.wait_for(operation)
            waiting = [operation for operation in waiting if not operation.done]
            self.start(waiting)
            waiting = [operation for operation in waiting if not operation.done]

    def wait_for(self, operation: Operation) -> None:
        """Waits for the answer of an attempt."""
        self._check_process(maybe_applied=operation.is_write)
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

    def _node(self, address: str) -> Node:
        with self._lock:
            node = self._nodes.get(address)
            if node is None:
                node = self._nodes[address] = Node(address)
            return node

    def _plan(self, operation: Operation) -> list[Node]:
        """Whom to ask, best first: owners, other members, seeds; those that failed just now last."""
        if operation.only is not None:
            return [self._node(operation.only)]
        addresses: list[str] = []
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

    def _connect(self, node: Node, deadline: float, about_data: bool) -> Connection:
        connection = self._open_connection(node)
        if connection is not None:
            return connection
        left = deadline - time.monotonic()
        if not node.dialling.acquire(timeout=max(left, 0)):
            raise UnreachableError(f"{node.address} is still being dialled", retryable=True)
        try:
            if self._closed:
                raise UnreachableError("this client was closed")
            connection = self._open_connection(node)
            if connection is not None:
                return connection
            if node.connection is not None and not node.connection.leaving:
                node.connection.close()
            patience = min(deadline - time.monotonic(), self._timeout * _CONNECT_SHARE)
            connection = Connection.open(
                node.address,
                self._cluster,
                self._cluster_id,
                patience,
                self._timeout * _SILENCE_SHARE,
            )
            self._admit(connection, about_data)
            node.connection = connection
            if self._closed:
                connection.close()
            return connection
        except DynakvError:
            node.failed()
            raise
        finally:
            node.dialling.release()

    def _open_connection(self, node: Node) -> Connection | None:
        connection = node.connection
        if connection is None or not connection.alive:
            return None
        # A node that belonged to no cluster at its welcome may have joined any in the meantime.
        return connection if connection.welcome.cluster_id != 0 else None

    def _admit(self, connection: Connection, about_data: bool) -> None:
        """Keeps to the first cluster that was met."""
        welcome = connection.welcome
        with self._lock:
            if self._cluster_id == 0:
                self._cluster_id = welcome.cluster_id
            pinned = self._cluster_id
        if welcome.cluster_id == 0:
            if about_data:
                connection.close("it belongs to no cluster yet")
                message = f"{connection.address} has not joined its cluster yet"
                raise NotReadyError(message, retryable=True)
        elif welcome.cluster_id != pinned:
            connection.close("it is of another cluster")
            raise WrongClusterError(
                f"{connection.address} belongs to another cluster of the name {welcome.cluster!r}"
            )
        self._want_ring(welcome.ring_version, connection.address)

    def _want_ring(self, version: int, address: str) -> None:
        with self._lock:
            if version > self._ring_wanted[0]:
                self._ring_wanted = (version, address)

    def take_ring(self, ring: Ring) -> None:
        """Follows this ring, unless a newer one is known."""
        with self._lock:
            if self._cluster_id and ring.cluster_id != self._cluster_id:
                return
            if self._ring is None or ring.version >= self._ring.version:
                self._ring = ring

    def _refresh_ring(self, operations: Sequence[Operation]) -> None:
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
            fetch = Operation(
                messages.RING,
                lambda *_: b"",
                messages.read_ring,
                deadline,
                only=address if wanted > have else None,
                passes_max=1,
            )
            self.run(fetch)
            self.take_ring(fetch.result)
        except DynakvError:
            pass  # The request itself will tell what is wrong, if it matters.
        finally:
            self._ring_looked_at = time.monotonic()
            self._ring_fetching.release()

    def _meet_somebody(self, operations: Sequence[Operation]) -> None:
        """Makes the first connection, whose welcome says whether there is a ring."""
        deadline = max(operation.deadline for operation in operations)
        for node in self._plan(operations[0]):
            if time.monotonic() >= deadline:
                return
            try:
                self._connect(node, deadline, about_data=True)
                return
            except DynakvError:
                continue
