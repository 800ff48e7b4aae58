"""Bytes: primitives, tagged fields, frames and batches (PROTOCOL.md, "Frames" to "Batches").

Decoders take any bytes and raise nothing but :class:`~dynakv.errors.MalformedError`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Callable, TypeVar, Union

from .errors import MalformedError

#: The one version of the protocol that this client speaks.
VERSION = 1

KEY_BYTES_MAX = 4096
#: What a node takes at most, however it is set.
VALUE_BYTES_MAX = 16 * 1024 * 1024
CONTEXT_BYTES_MAX = 81920
#: The largest frame that a client must accept, by its length field.
FRAME_LENGTH_MAX = 84410368
#: A refusal of a hello is shorter than this.
HANDSHAKE_LENGTH_MAX = 8192
BATCH_ITEMS_MAX = 4096
#: A batch is closed after the item that takes its frame to this size.
BATCH_BYTES = 256 * 1024
TIMEOUT_MS_MAX = 60_000

#: The length field and what it does not count: itself.
HEADER_BYTES = 20
#: What the length field counts besides the body.
_LENGTH_MIN = 16

BATCH = 0x04

_HEADER = Struct(">IIBBHQ")
_AFTER_CHECKSUM = Struct(">BBHQ")
_ITEM = Struct(">BHQI")
_U16 = Struct(">H")
_U32 = Struct(">I")
_U64 = Struct(">Q")
_NODE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

Bytes = Union[bytes, bytearray, memoryview]
T = TypeVar("T")


# Writing.


def u8(value: int) -> bytes:
    """One byte."""
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    """Two bytes."""
    return _U16.pack(value)


def u32(value: int) -> bytes:
    """Four bytes."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """Eight bytes."""
    return _U64.pack(value)


def u128(value: int) -> bytes:
    """Sixteen bytes."""
    return value.to_bytes(16, "big")


def varint(value: int) -> bytes:
    """Unsigned LEB128, in its shortest form."""
    if value < 0x80:
        return value.to_bytes(1, "big")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def sized(value: Bytes) -> bytes:
    """Bytes with their length in front; a string is its UTF-8."""
    return varint(len(value)) + value


def tagged(tag: int, value: bytes) -> bytes:
    """A tagged field."""
    return u8(tag) + sized(value)


# Reading.


class Reader:
    """Takes fields off the front of some bytes."""

    __slots__ = ("_data", "_at", "_end")

    def __init__(self, data: Bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._end = len(self._data)

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return self._end - self._at

    def take(self, count: int) -> memoryview:
        """The next bytes, not copied."""
        if count > self.left:
            raise MalformedError(f"{count} bytes are needed, {self.left} are left")
        at = self._at
        self._at = at + count
        return self._data[at : self._at]

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Two bytes."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Four bytes."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Eight bytes."""
        return int.from_bytes(self.take(8), "big")

    def u128(self) -> int:
        """Sixteen bytes."""
        return int.from_bytes(self.take(16), "big")

    def boolean(self) -> bool:
        """A byte that is 0 or 1."""
        value = self.u8()
        if value > 1:
            raise MalformedError(f"a bool is 0 or 1, not {value}")
        return value == 1

    def varint(self) -> int:
        """Unsigned LEB128 of at most 64 bits, in its shortest form."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift > 0:
                    raise MalformedError("a varint is not in its shortest form")
                if value >> 64:
                    raise MalformedError("a varint is over 64 bits")
                return value
        raise MalformedError("a varint is over 10 bytes")

    def view(self) -> memoryview:
        """Bytes with their length in front, not copied."""
        return self.take(self.varint())

    def blob(self) -> bytes:
        """Bytes with their length in front."""
        return bytes(self.view())

    def string(self) -> str:
        """The same, as UTF-8."""
        try:
            return str(self.view(), "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"a string is not UTF-8: {error}") from None

    def node_id(self) -> str:
        """The name of a node."""
        value = self.view()
        if not _NODE_ID.fullmatch(value):
            raise MalformedError("a node id is 1 to 64 letters, digits, '.', '_' and '-'")
        return str(value, "ascii")

    def items(self, item: Callable[[], T], item_bytes_min: int) -> list[T]:
        """A count and as many items. No count asks for more items than there are bytes for."""
        count = self.varint()
        if count * item_bytes_min > self.left:
            raise MalformedError(f"{count} items do not fit into {self.left} bytes")
        return [item() for _ in range(count)]

    def counted(self) -> Reader:
        """A reader of the next field alone, whose unknown end is skipped."""
        return Reader(self.view())

    def tags(self) -> dict[int, Reader]:
        """The tagged fields that follow, to the end. Of a tag that comes twice the last one counts."""
        fields: dict[int, Reader] = {}
        while self.left:
            tag = self.u8()
            fields[tag] = self.counted()
        return fields


# Frames.


@dataclass(frozen=True)
class Message:
    """A kind, the id that an answer repeats, and the bytes of the body."""

    kind: int
    request_id: int
    body: Bytes


def frame(kind: int, request_id: int, parts: Sequence[Bytes], flags: int = 0) -> list[Bytes]:
    """A frame, as pieces to be sent one after the other; ``parts`` are its body and are not copied."""
    head = _AFTER_CHECKSUM.pack(VERSION, kind, flags, request_id)
    checksum = zlib.crc32(head)
    length = len(head) + 4
    for part in parts:
        checksum = zlib.crc32(part, checksum)
        length += len(part)
    return [_U32.pack(length) + _U32.pack(checksum) + head, *parts]


def batch_item(message: Message) -> list[Bytes]:
    """An item of a batch, as pieces."""
    return [_ITEM.pack(message.kind, 0, message.request_id, len(message.body)), message.body]


def pack(messages: Sequence[Message]) -> list[Bytes]:
    """Frames that hold these messages in their order, several to a batch, as pieces."""
    pieces: list[Bytes] = []
    start = 0
    while start < len(messages):
        size, end = HEADER_BYTES, start
        while end < len(messages) and end - start < BATCH_ITEMS_MAX and size < BATCH_BYTES:
            size += _ITEM.size + len(messages[end].body)
            end += 1
        if end - start == 1:
            only = messages[start]
            pieces += frame(only.kind, only.request_id, [only.body])
        else:
            items = [piece for message in messages[start:end] for piece in batch_item(message)]
            # Small pieces are cheaper to copy once than to send one by one.
            pieces += frame(BATCH, 0, [b"".join(items)])
        start = end
    return pieces


def frame_length(header: Bytes, length_max: int) -> int:
    """How many bytes of body follow this header, which is held against its limits first."""
    length = _U32.unpack_from(header)[0]
    if not _LENGTH_MIN <= length <= length_max:
        raise MalformedError(
            f"a frame of length {length} is no frame (from {_LENGTH_MIN} to {length_max}): "
            "is this the port of a dynakv node?"
        )
    return int(length) - _LENGTH_MIN


def open_frame(header: Bytes, body: Bytes) -> list[Message]:
    """The messages in a frame: one, or those of a batch. The checksum is held against all of it."""
    _, checksum, version, kind, _flags, request_id = _HEADER.unpack(header)
    if zlib.crc32(body, zlib.crc32(memoryview(header)[8:])) != checksum:
        raise MalformedError("the checksum of a frame does not match: bytes were damaged on the way")
    if version != VERSION:
        raise MalformedError(f"a frame of protocol version {version}, agreed was {VERSION}")
    if kind == BATCH:
        return _open_batch(body)
    return [Message(kind, request_id, body)]


def _open_batch(body: Bytes) -> list[Message]:
    reader = Reader(body)
    messages: list[Message] = []
    while reader.left:
        if len(messages) == BATCH_ITEMS_MAX:
            raise MalformedError(f"a batch of more than {BATCH_ITEMS_MAX} items")
        kind, _flags, request_id, length = _ITEM.unpack(reader.take(_ITEM.size))
        if kind == BATCH:
            raise MalformedError("a batch inside a batch")
        messages.append(Message(kind, request_id, reader.take(length)))
    return messages


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address stands in brackets."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ValueError(f"an address is HOST:PORT, not {address!r}")
    return host, int(port)
