"""The client: routes each request to an owner of its key, and retries it elsewhere when that fails."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Union

from . import messages
from .dispatch import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, Dispatcher
from .errors import PartialFailureError, TooLargeError
from .messages import Fetched, Health, Stats, Status, Written
from .operation import (
    Key,
    Operation,
    Value,
    addresses_of,
    check_quorum,
    context_of,
    key_of,
    octets,
    seconds,
)
from .ring import Ring
from .wire import VALUE_BYTES_MAX, Bytes, split_address


class Client:
    """A client of a cluster. It may be used by any number of threads at once, but not across a fork.

    :param seeds: ``host:port`` of some nodes, or a string with one or, with commas between them, several. The
        other nodes are learnt from them. Of a name every address is tried.
    :param cluster: the cluster's name, which nodes of another one refuse; empty for whichever it is.
    :param timeout: how many seconds a request may take, with all its retries.
    :param route: ask owners directly; without it only the seeds are asked, and pass requests on.

    Nothing is sent before the first request. Within its timeout a request is tried at one node after the
    other; a write keeps its id, so that it is applied once. An error that is raised says in
    ``maybe_applied`` whether some attempt may have succeeded all the same.
    """

    def __init__(
        self,
        seeds: Union[str, Iterable[str]],
        cluster: str = "",
        timeout: float = 5.0,
        route: bool = True,
    ) -> None:
        addresses = addresses_of(seeds)
        if len(cluster.encode()) > 255:
            raise ValueError("a cluster's name has at most 255 bytes")
        self._timeout = seconds(timeout)
        self._dispatcher = Dispatcher(addresses, cluster, self._timeout, route)
        # Who writes, and the numbers of its writes: they say which of two came first.
        self._writer = secrets.randbits(64)
        self._numbers = itertools.count()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections; requests that wait for an answer fail. After a fork it ends none of the parent's."""
        self._dispatcher.close()

    def __reduce__(self) -> Any:
        raise TypeError("a client has connections and cannot be pickled or copied: make one in each process")

    # Data.

    def get(
        self,
        key: Key,
        *,
        r: int | None = None,
        repair_first: bool = False,
        timeout: float | None = None,
    ) -> Fetched:
        """Reads a key.

        :param r: how many replicas must answer; the cluster's default when None.
        :param repair_first: mend stale replicas before the answer instead of after it.
        """
        fetched: Fetched = self._dispatcher.run(self._get(key, r, repair_first, timeout))
        return fetched

    def put(
        self,
        key: Key,
        value: Value,
        context: bytes | None = None,
        w: int | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        *,
        sloppy: bool = False,
    ) -> Written:
        """Stores a value.

        :param context: that of the read which this write answers. Without one the write is blind.
        :param w: how many replicas must have it on disk; the cluster's default when None.
        :param ttl: the value expires after this many seconds.
        :param sloppy: while owners are down, other nodes may stand in for them and count, until the
            owners are back; ``Written.sloppy`` says whether they did. Reads may miss it so long.
        """
        written: Written = self._dispatcher.run(self._put(key, value, context, w, ttl, timeout, sloppy))
        return written

    def delete(
        self,
        key: Key,
        context: bytes | None = None,
        w: int | None = None,
        timeout: float | None = None,
        *,
        sloppy: bool = False,
    ) -> Written:
        """Deletes a key; one that is absent, too. The parameters are those of :meth:`put`."""
        written: Written = self._dispatcher.run(self._delete(key, context, w, timeout, sloppy))
        return written

    def get_many(
        self, keys: Iterable[Key], *, r: int | None = None, timeout: float | None = None
    ) -> list[Fetched]:
        """Reads many keys, many to a frame; the results are in the order of the keys.

        The timeout is that of each group of at most 4,096 keys. When some fail, PartialFailureError
        holds the results of all.
        """
        return self._run_many(self._get(key, r, False, timeout) for key in keys)

    def put_many(
        self,
        items: Union[Mapping[Any, Value], Iterable[tuple[Key, Value]]],
        *,
        w: int | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        sloppy: bool = False,
    ) -> list[Written]:
        """Stores many values, many to a frame, all of them blind writes. See :meth:`get_many`."""
        pairs = items.items() if isinstance(items, Mapping) else items
        return self._run_many(self._put(key, value, None, w, ttl, timeout, sloppy) for key, value in pairs)

    def pipeline(self) -> Pipeline:
        """Requests that are sent at once and waited for later."""
        return Pipeline(self)

    # Nodes.

    def stats(self, address: str | None = None) -> Stats:
        """Counts of the node at this address, or of any."""
        stats: Stats = self._ask(messages.STATS, messages.read_stats, address)
        return stats

    def health(self, address: str | None = None) -> Health:
        """Whether the node at this address, or any, can coordinate requests."""
        health: Health = self._ask(messages.HEALTH, messages.read_health, address)
        return health

    def status(self, address: str | None = None) -> Status:
        """The members, as the node at this address, or any, sees them."""
        status: Status = self._ask(messages.STATUS, messages.read_status, address)
        return status

    def ring(self, address: str | None = None) -> Ring:
        """The newest ring that the node at this address, or any, knows."""
        ring: Ring = self._ask(messages.RING, messages.read_ring, address)
        self._dispatcher.take_ring(ring)
        return ring

    def ping(self, address: str | None = None) -> None:
        """Waits for a sign of life from the node at this address, or from any."""
        self._ask(messages.PING, messages.read_nothing, address)

    # Making operations.

    def _get(self, key: Key, r: int | None, repair_first: bool, timeout: float | None) -> Operation:
        key = key_of(key)
        check_quorum("r", r)
        return Operation(
            messages.GET,
            lambda timeout_ms, _: messages.get(timeout_ms, key, r, repair_first),
            messages.read_fetched,
            self._deadline(timeout),
            key=key,
            size=len(key),
        )

    def _put(
        self,
        key: Key,
        value: Value,
        context: bytes | None,
        w: int | None,
        ttl: float | None,
        timeout: float | None,
        sloppy: bool,
    ) -> Operation:
        key, value = key_of(key), octets("value", value)
        if len(value) > VALUE_BYTES_MAX:
            raise TooLargeError(f"a value has at most {VALUE_BYTES_MAX} bytes, this one {len(value)}")
        context = context_of(context)
        check_quorum("w", w)
        ttl_ms = None if ttl is None else max(1, round(seconds(ttl) * 1000))
        write_id = self._next_write_id()
        return Operation(
            messages.PUT,
            lambda timeout_ms, again: messages.put(
                timeout_ms, write_id, key, value, w, context, ttl_ms, sloppy, again
            ),
            messages.read_written,
            self._deadline(timeout),
            key=key,
            is_write=True,
            size=len(key) + len(value),
        )

    def _delete(
        self,
        key: Key,
        context: bytes | None,
        w: int | None,
        timeout: float | None,
        sloppy: bool,
    ) -> Operation:
        key, context = key_of(key), context_of(context)
        check_quorum("w", w)
        write_id = self._next_write_id()
        return Operation(
            messages.DELETE,
            lambda timeout_ms, again: messages.delete(
                timeout_ms, write_id, key, w, context, sloppy, again
            ),
            messages.read_written,
            self._deadline(timeout),
            key=key,
            is_write=True,
            size=len(key),
        )

    def _next_write_id(self) -> int:
        return self._writer << 64 | next(self._numbers)

    def _ask(self, kind: int, decode: Callable[[Bytes], Any], address: str | None) -> Any:
        if address is not None:
            split_address(address)
        deadline = self._deadline(None)
        # Who asks about nodes wants to hear that none is there, and not only at the deadline.
        return self._dispatcher.run(
            Operation(kind, lambda *_: b"", decode, deadline, only=address, passes_max=1)
        )

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else seconds(timeout))

    def _run_many(self, operations: Iterable[Operation]) -> list[Any]:
        finished: list[Operation] = []
        group: list[Operation] = []
        size = 0
        for operation in operations:
            group.append(operation)
            size += operation.size
            if len(group) >= IN_FLIGHT_MAX or size >= IN_FLIGHT_BYTES_MAX:
                self._dispatcher.start(group)
                self._dispatcher.settle(group)
                finished += group
                group, size = [], 0
        self._dispatcher.start(group)
        self._dispatcher.settle(group)
        finished += group
        results = [each.result if each.error is None else each.error for each in finished]
        if any(each.error is not None for each in finished):
            raise PartialFailureError(results)
        return results


class Pending:
    """A request of a pipeline."""

    def __init__(self, pipeline: Pipeline, operation: Operation) -> None:
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
        self._waiting: list[Operation] = []
        self._bytes = 0

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, exception_type: object, *_exception: object) -> None:
        if exception_type is None:
            self.wait()

    def get(self, key: Key, *, r: int | None = None, repair_first: bool = False) -> Pending:
        """See :meth:`Client.get`."""
        return self._add(self._client._get(key, r, repair_first, None))

    def put(
        self,
        key: Key,
        value: Value,
        context: bytes | None = None,
        w: int | None = None,
        ttl: float | None = None,
        *,
        sloppy: bool = False,
    ) -> Pending:
        """See :meth:`Client.put`."""
        return self._add(self._client._put(key, value, context, w, ttl, None, sloppy))

    def delete(
        self,
        key: Key,
        context: bytes | None = None,
        w: int | None = None,
        *,
        sloppy: bool = False,
    ) -> Pending:
        """See :meth:`Client.delete`."""
        return self._add(self._client._delete(key, context, w, None, sloppy))

    def wait(self) -> None:
        """Waits until all have been answered. What failed is raised by its ``result()``."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        self._client._dispatcher.settle(waiting)

    def _add(self, operation: Operation) -> Pending:
        if len(self._waiting) >= IN_FLIGHT_MAX or self._bytes >= IN_FLIGHT_BYTES_MAX:
            self.wait()
        self._client._dispatcher.start([operation])
        self._waiting.append(operation)
        self._bytes += operation.size
        return Pending(self, operation)

    def _finish(self, operation: Operation) -> None:
        self._client._dispatcher.wait_for(operation)
        if not operation.done:
            # It has to be tried again, and so have others, most likely: all together.
            self.wait()
