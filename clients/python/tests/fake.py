"""A node that does what a test wants, for what real nodes do too seldom."""

from __future__ import annotations

import socket
import threading
from typing import Callable

from dynakv import messages, wire
from dynakv.wire import Message

#: What to send back for one request; frames as bytes.
Script = Callable[["FakeNode", Message], "list[bytes]"]


def frame(kind: int, request_id: int, body: bytes = b"") -> bytes:
    """A frame in one piece."""
    return b"".join(wire.frame(kind, request_id, [body]))


def error(code: int, request_id: int, maybe_applied: bool = False, retryable: bool = False) -> bytes:
    """An error in a frame."""
    flags = bytes([maybe_applied, retryable])
    return frame(messages.ERROR, request_id, wire.u16(code) + flags + wire.sized(b"as scripted"))


def written(request_id: int, kind: int = messages.PUT) -> bytes:
    """A write that was done."""
    return frame(kind | messages.ANSWER, request_id, b"\x01\x00" + wire.sized(b"a context"))


def fetched(request_id: int, value: bytes) -> bytes:
    """A read that found one value."""
    sibling = wire.u64(1) + wire.varint(1) + wire.u64(0) + wire.sized(value)
    return frame(messages.GET | messages.ANSWER, request_id, b"\x01\x00\x01" + sibling)


def goaway(last: int, reason: bytes = b"shutting down") -> bytes:
    """The node takes no requests behind this one."""
    return frame(messages.GOAWAY, 0, wire.u64(last) + wire.u32(1000) + wire.sized(reason))


def write_id(request: Message) -> bytes:
    """The id of a write."""
    return bytes(request.body[4:20])


def says_again(request: Message) -> bool:
    """Whether a put or delete says that it is not the first attempt."""
    reader = wire.Reader(request.body)
    reader.u32()
    reader.u128()
    reader.blob()
    if request.kind == messages.PUT:
        reader.blob()
    again = reader.tags().get(6)
    return again is not None and again.boolean()


class FakeNode:
    """Listens on a port of its own and answers by its script."""

    def __init__(self, script: Script, cluster: str = "dynakv", cluster_id: int = 7) -> None:
        self.script = script
        self.cluster = cluster
        self.cluster_id = cluster_id
        #: Whether it refuses every hello, as a node of another cluster does.
        self.refuses = False
        #: Of each connection: the body of its hello.
        self.hellos: list[bytes] = []
        #: All requests, in the order of their arrival.
        self.requests: list[Message] = []
        #: How many frames they came in.
        self.frames = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._accepting.join()

    def hang_up(self) -> None:
        """Ends all connections."""
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as stream:
            try:
                while True:
                    header = stream.read(wire.HEADER_BYTES)
                    if len(header) < wire.HEADER_BYTES:
                        return
                    body = stream.read(wire.frame_length(header, wire.FRAME_LENGTH_MAX))
                    self.frames += 1
                    for request in wire.open_frame(header, body):
                        for answer in self._answers(request):
                            if not answer:
                                return  # Hangs up.
                            sock.sendall(answer)
            except OSError:
                return

    def _answers(self, request: Message) -> list[bytes]:
        if request.kind == messages.HELLO:
            self.hellos.append(bytes(request.body))
            if self.refuses:
                return [error(12, request.request_id)]
            welcome = (
                b"\x01"
                + wire.sized(b"fake")
                + bytes(16)
                + wire.sized(self.cluster.encode())
                + wire.u128(self.cluster_id)
                + bytes(8)
            )
            return [frame(messages.WELCOME, request.request_id, welcome)]
        self.requests.append(request)
        return self.script(self, request)
