"""One connection to one node: many requests in flight, answers matched by their ids.

A thread reads for as long as the connection lasts, so answers are taken in while requests are written, as the
protocol asks for. Any number of threads may send.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Callable

from . import messages
from .errors import (
    ConnectionLostError,
    DynakvError,
    MalformedError,
    RequestTimeoutError,
    UnreachableError,
    VersionMismatchError,
    WrongClusterError,
)
from .wire import (
    FRAME_LENGTH_MAX,
    HANDSHAKE_LENGTH_MAX,
    HEADER_BYTES,
    VERSION,
    Bytes,
    Message,
    frame,
    frame_length,
    open_frame,
    pack,
    split_address,
)

#: A reader and a sender that wait look around this often.
_TICK_S = 0.1
_READ_BYTES = 256 * 1024
#: Pieces are joined up to this size: one system call for many small ones.
_JOIN_BYTES = 128 * 1024
#: A node that takes values of 1 byte takes frames up to this size, whatever they hold.
_FRAME_ALWAYS_TAKEN_BYTES = 512 * 1024


@dataclass(eq=False)
class Call:
    """A request that is sent once, and the place where its answer appears."""

    kind: int
    body: Bytes
    decode: Callable[[Bytes], Any]
    #: Whether a lost answer leaves open what became of it.
    is_write: bool = False
    answer: Future[Any] = field(default_factory=Future)

    def lost(self, why: str) -> ConnectionLostError:
        """What to raise when the answer cannot come any more."""
        return ConnectionLostError(why, maybe_applied=self.is_write, retryable=True)


class Connection:
    """A connection after its handshake."""

    def __init__(
        self,
        address: str,
        sock: socket.socket,
        left_over: bytearray,
        welcome: messages.Welcome,
        silence_s: float,
    ) -> None:
        self.address = address
        self.welcome = welcome
        self._socket = sock
        self._buffer = left_over
        self._silence_s = silence_s
        self._ids = itertools.count(2)
        # Guards what waits and whether the connection lives; never held while anybody waits.
        self._lock = threading.Lock()
        self._waiting: dict[int, Call] = {}
        self._closed: str | None = None
        #: The node takes no more requests here, and still answers those that it took: why.
        self._leaving: str | None = None
        # One frame after the other.
        self._send_lock = threading.Lock()
        self._progress_at = time.monotonic()
        self._pinged_at: float | None = None
        sock.settimeout(_TICK_S)
        self._reader = threading.Thread(target=self._read, name=f"dynakv {address}", daemon=True)
        self._reader.start()

    @classmethod
    def open(
        cls, address: str, cluster: str, cluster_id: int, timeout_s: float, silence_s: float
    ) -> Connection:
        """Dials and shakes hands, within this time. Of a name every address is tried: each has its share of what is
        left, so that one which swallows packets leaves enough for the next."""
        deadline = time.monotonic() + timeout_s
        targets = _resolve_name(address)
        failures: list[DynakvError] = []
        for at, (family, target) in enumerate(targets):
            left = max(deadline - time.monotonic(), 0)
            until = time.monotonic() + left / (len(targets) - at)
            named = address if len(targets) == 1 else f"{address} at {_address_text(target)}"
            try:
                sock, buffer, welcome = _dial(named, family, target, cluster, cluster_id, until)
                return cls(address, sock, buffer, welcome, silence_s)
            except DynakvError as error:
                failures.append(error)
        # What a node said tells more than that nobody answers.
        told = [error for error in failures if not isinstance(error, UnreachableError)]
        if told or len(failures) == 1:
            raise (told or failures)[0]
        message = "; ".join(error.message for error in failures)
        raise UnreachableError(message, retryable=any(error.retryable for error in failures))

    @property
    def alive(self) -> bool:
        """Whether requests can be sent on it, as far as is known."""
        return self._closed is None and self._leaving is None

    @property
    def leaving(self) -> bool:
        """Whether the node takes no more requests on it, and goes on answering those that it took."""
        return self._leaving is not None

    def send(self, calls: Sequence[Call], deadline: float) -> None:
        """Sends these, several to a frame. Each gets an answer, be it that the connection has ended."""
        if not self._send_lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
            for call in calls:
                message = f"{self.address} takes no more requests: earlier ones are stuck"
                _resolve(call, error=RequestTimeoutError(message, retryable=True))
            return
        try:
            # Under the lock of the sender: ids ascend in the order of the stream, as GOAWAY needs it.
            identified = [(next(self._ids), call) for call in calls]
            with self._lock:
                closed = self._closed or self._leaving
                if closed is None:
                    if not self._waiting:
                        # Silence counts from here: nothing was owed before.
                        self._progress_at, self._pinged_at = time.monotonic(), None
                    self._waiting.update(identified)
            if closed is not None:
                for call in calls:
                    # Nothing of it was sent.
                    call.answer.set_exception(UnreachableError(closed, retryable=True))
                return
            self._write(pack([Message(call.kind, number, call.body) for number, call in identified]), deadline)
        finally:
            self._send_lock.release()

    def forget(self, call: Call) -> None:
        """Nobody waits for this answer any more."""
        with self._lock:
            for number, waiting in self._waiting.items():
                if waiting is call:
                    del self._waiting[number]
                    return

    def close(self, why: str = "the client was closed") -> None:
        """Ends it; what waits is told."""
        with self._lock:
            if self._closed is not None:
                return
            self._closed = why
            waiting, self._waiting = self._waiting, {}
        try:
            # Wakes the reader, which closes the socket.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended already.
        for call in waiting.values():
            _resolve(call, error=call.lost(why))

    def let_go(self) -> None:
        """Closes this process's hold on the socket, and not the connection, which is another process's."""
        self._socket.close()

    def join(self) -> None:
        """Waits until a closed connection has let go of its socket."""
        if threading.current_thread() is not self._reader:
            self._reader.join()

    # Writing.

    def _write(self, pieces: list[Bytes], deadline: float) -> None:
        try:
            if sum(map(len, pieces)) <= _JOIN_BYTES:
                pieces = [b"".join(pieces)]
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    try:
                        view = view[self._socket.send(view) :]
                        self._progress_at = time.monotonic()
                    except socket.timeout:
                        if time.monotonic() >= deadline:
                            # A frame that ends in its middle leaves no boundary for the next one.
                            self.close(f"{self.address} did not take a request in time")
                            return
        except OSError as error:
            # The reader may find an error frame that says more, so it is left to end the connection.
            self._give_reader_a_moment()
            self.close(f"{self.address} ended the connection: {error}")

    def _give_reader_a_moment(self) -> None:
        self._reader.join(timeout=_TICK_S)

    def _ping(self) -> None:
        # A sender that has the lock is either about to make progress or stuck like the rest.
        if self._send_lock.acquire(blocking=False):
            try:
                call = Call(messages.PING, b"", messages.read_nothing)
                with self._lock:
                    number = next(self._ids)
                    self._waiting[number] = call
                ping = b"".join(frame(call.kind, number, []))
                if self._socket.send(ping) < len(ping):
                    self.close(f"{self.address} takes no more bytes")
            except OSError:
                pass  # The reader finds out.
            finally:
                self._send_lock.release()

    # Reading.

    def _read(self) -> None:
        why = f"{self.address} ended the connection"
        try:
            while True:
                header = self._take(HEADER_BYTES)
                body = self._take(frame_length(header, FRAME_LENGTH_MAX))
                for message in open_frame(header, body):
                    if not self._answer(message):
                        return
        except _Ended as ended:
            why = str(ended) or why
        except MalformedError as error:
            why = f"{self.address} sent what is not of the protocol: {error}"
        except OSError as error:
            why = f"{why}: {error}"
        finally:
            self.close(why)
            self._socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                chunk = self._socket.recv(_READ_BYTES)
            except socket.timeout:
                self._look_around()
                continue
            if not chunk:
                raise _Ended
            self._buffer += chunk
            self._progress_at = time.monotonic()
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _look_around(self) -> None:
        """Finds out whether a silent connection is half-open."""
        with self._lock:
            if self._closed is not None:
                raise _Ended
            owed = bool(self._waiting)
        now = time.monotonic()
        if not owed:
            return
        if self._pinged_at is None or self._pinged_at < self._progress_at:
            if now - self._progress_at >= self._silence_s:
                self._pinged_at = now
                self._ping()
        elif now - self._pinged_at >= 2 * self._silence_s:
            raise _Ended(f"{self.address} does not answer any more, not even a ping")

    def _answer(self, message: Message) -> bool:
        """Hands an answer to whoever waits for it; False when it was the connection's last."""
        if message.request_id == 0:
            if message.kind == messages.GOAWAY:
                self._leave(*messages.read_goaway(message.body))
            if message.kind == messages.ERROR:
                self._end(messages.read_error(message.body))
                return False
            return True
        with self._lock:
            call = self._waiting.pop(message.request_id, None)
        if call is None:
            return True  # It came too late.
        try:
            if message.kind == messages.ERROR:
                _resolve(call, error=messages.read_error(message.body))
            elif message.kind == call.kind | messages.ANSWER:
                _resolve(call, result=call.decode(message.body))
            else:
                raise MalformedError(f"kind {message.kind:#04x} answers kind {call.kind:#04x}")
        except MalformedError as error:
            error.maybe_applied = call.is_write
            _resolve(call, error=error)
            raise
        return True

    def _leave(self, last: int, reason: str) -> None:
        """Requests behind the last one were certainly not carried out; the others wait on for their answers."""
        with self._lock:
            self._leaving = f"{self.address} takes no more requests: {reason}"
            behind = [self._waiting.pop(number) for number in list(self._waiting) if number > last]
        for call in behind:
            _resolve(call, error=UnreachableError(self._leaving, retryable=True))

    def _end(self, error: DynakvError) -> None:
        """The node says why it ends the connection."""
        if isinstance(error, MalformedError):
            # A frame over the node's limit ends so. To send it again, here or elsewhere, is no use.
            with self._lock:
                waiting = list(self._waiting.items())
                large = [c for n, c in waiting if len(c.body) > _FRAME_ALWAYS_TAKEN_BYTES]
                for number, call in waiting:
                    if call in large:
                        del self._waiting[number]
            for call in large:
                message = f"{self.address} refused a large request: {error.message}"
                _resolve(call, error=MalformedError(message, maybe_applied=call.is_write))
        self.close(f"{self.address} ended the connection: {error.message}")


class _Ended(Exception):
    """The other side is gone."""


def _resolve(call: Call, result: Any = None, error: DynakvError | None = None) -> None:
    if error is None:
        call.answer.set_result(result)
    else:
        call.answer.set_exception(error)


def _resolve_name(address: str) -> list[tuple[int, Any]]:
    """The family and the form for sockets of each address that a name stands for."""
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise UnreachableError(str(error)) from None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"{address} cannot be reached: {error}"
        raise UnreachableError(message, retryable=True) from None
    return list(dict.fromkeys((family, target) for family, _, _, _, target in found))


def _address_text(target: Any) -> str:
    host, port = target[0], target[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _dial(
    address: str, family: int, target: Any, cluster: str, cluster_id: int, deadline: float
) -> tuple[socket.socket, bytearray, messages.Welcome]:
    """Connects to one address and shakes hands, until the deadline."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UnreachableError(f"{address} cannot be reached: {error}", retryable=True) from None
    try:
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(target)
        except OSError as error:
            message = f"{address} cannot be reached: {error or 'no answer'}"
            raise UnreachableError(message, retryable=True) from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(min(max(deadline - time.monotonic(), 0.001), _TICK_S))
            buffer = bytearray()
            return sock, buffer, _shake_hands(address, sock, buffer, cluster, cluster_id, deadline)
        except OSError as error:
            message = f"{address} ended the connection before it began: {error}"
            raise UnreachableError(message, retryable=True) from None
    except BaseException:
        sock.close()
        raise


def _shake_hands(
    address: str,
    sock: socket.socket,
    buffer: bytearray,
    cluster: str,
    cluster_id: int,
    deadline: float,
) -> messages.Welcome:
    sock.sendall(b"".join(frame(messages.HELLO, 1, [messages.hello(cluster, cluster_id)])))

    def take(count: int) -> bytes:
        while len(buffer) < count:
            if time.monotonic() >= deadline:
                message = f"{address} takes connections and does not answer"
                raise UnreachableError(message, retryable=True)
            try:
                chunk = sock.recv(_READ_BYTES)
            except socket.timeout:
                continue
            if not chunk:
                message = f"{address} ended the connection before it began"
                raise UnreachableError(message, retryable=True)
            buffer.extend(chunk)
        taken = bytes(memoryview(buffer)[:count])
        del buffer[:count]
        return taken

    header = take(HEADER_BYTES)
    answers = open_frame(header, take(frame_length(header, HANDSHAKE_LENGTH_MAX)))
    if len(answers) != 1:
        raise MalformedError(f"{address} answered a hello with {len(answers)} messages")
    answer = answers[0]
    if answer.kind == messages.ERROR and answer.request_id in (0, 1):
        raise messages.read_error(answer.body)
    if answer.kind != messages.WELCOME or answer.request_id != 1:
        raise MalformedError(f"{address} answered a hello with kind {answer.kind:#04x}")
    welcome = messages.read_welcome(answer.body)
    if welcome.version != VERSION:
        raise VersionMismatchError(
            f"{address} chose protocol version {welcome.version}, offered was {VERSION}"
        )
    if cluster and welcome.cluster != cluster:
        raise WrongClusterError(f"{address} belongs to cluster {welcome.cluster!r}, wanted was {cluster!r}")
    return welcome
