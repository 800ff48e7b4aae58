"""Bytes, against the vectors of the protocol, and against anything else that may come."""

from __future__ import annotations

import random
import struct
import unittest
import zlib
from typing import Any, Callable

from dynakv import messages, wire
from dynakv.context import context_from_text, context_to_text
from dynakv.errors import BadRequestError, DynakvError, MalformedError, QuorumUnavailableError

from .vectors import CLUSTER_ID, CONTEXT, REQUEST_ID, WRITE_ID, documented, golden, open_bytes, table

KEY = b"user:123"

#: What a client sends, by the name of its vector.
REQUESTS = {
    "request.hello.client.goaway": (messages.HELLO, messages.hello("dynakv", 0)),
    "request.get": (messages.GET, messages.get(5000, KEY, None, False)),
    "request.get.all-options": (messages.GET, messages.get(5000, KEY, 1, True)),
    "request.put": (messages.PUT, messages.put(5000, WRITE_ID, KEY, b"Alice")),
    "request.delete": (messages.DELETE, messages.delete(5000, WRITE_ID, KEY)),
    "request.delete.with-context": (
        messages.DELETE,
        messages.delete(5000, WRITE_ID, KEY, context=CONTEXT),
    ),
    "request.ping": (messages.PING, b""),
    "request.stats": (messages.STATS, b""),
    "request.health": (messages.HEALTH, b""),
    "request.status": (messages.STATUS, b""),
    "request.ring": (messages.RING, b""),
}

#: How a client reads an answer, by the kind of the answer.
DECODERS: dict[int, Callable[[wire.Bytes], Any]] = {
    messages.WELCOME: messages.read_welcome,
    messages.ERROR: messages.read_error,
    messages.PING | messages.ANSWER: messages.read_nothing,
    messages.GET | messages.ANSWER: messages.read_fetched,
    messages.PUT | messages.ANSWER: messages.read_written,
    messages.DELETE | messages.ANSWER: messages.read_written,
    messages.STATS | messages.ANSWER: messages.read_stats,
    messages.HEALTH | messages.ANSWER: messages.read_health,
    messages.STATUS | messages.ANSWER: messages.read_status,
    messages.RING | messages.ANSWER: messages.read_ring,
}


class VectorTest(unittest.TestCase):
    def setUp(self) -> None:
        self.golden = golden()

    def answer(self, name: str) -> Any:
        (message,) = open_bytes(self.golden[name])
        self.assertEqual(message.request_id, REQUEST_ID)
        return DECODERS[message.kind](message.body)

    def test_the_page_shows_what_the_file_holds(self) -> None:
        shown = documented()
        self.assertIn("response.fetched.siblings", shown)
        for name, data in shown.items():
            self.assertEqual(data, self.golden[name], name)

    def test_requests_are_those_of_the_file(self) -> None:
        for name, (kind, body) in REQUESTS.items():
            encoded = b"".join(wire.frame(kind, REQUEST_ID, [body]))
            self.assertEqual(encoded, self.golden[name], name)

    def test_a_put_with_all_options(self) -> None:
        options: dict[str, Any] = {"w": 3, "context": CONTEXT, "ttl_ms": 60_000, "sloppy": True}
        body = messages.put(5000, WRITE_ID, KEY, b"Alice", **options)
        encoded = b"".join(wire.frame(messages.PUT, REQUEST_ID, [body]))
        self.assertEqual(encoded, self.golden["request.put.all-options"])

    def test_a_sloppy_delete_has_one_tag_more(self) -> None:
        strict = messages.delete(5000, WRITE_ID, KEY, w=2)
        sloppy = messages.delete(5000, WRITE_ID, KEY, w=2, sloppy=True)
        # The last bytes of the golden put with all options: its tags are in order.
        put = self.golden["request.put.all-options"]
        (message,) = open_bytes(put)
        self.assertEqual(sloppy, strict + bytes(message.body)[-3:])

    def test_a_batch(self) -> None:
        get = messages.get(5000, KEY, None, False)
        packed = wire.pack([wire.Message(0x05, 7, b""), wire.Message(0x10, 8, get)])
        self.assertEqual(b"".join(packed), self.golden["batch"])
        ping, fetch = open_bytes(self.golden["batch"])
        self.assertEqual((ping.kind, ping.request_id, bytes(ping.body)), (0x05, 7, b""))
        self.assertEqual((fetch.kind, fetch.request_id, bytes(fetch.body)), (0x10, 8, get))

    def test_a_welcome(self) -> None:
        welcome = self.answer("response.welcome")
        self.assertEqual((welcome.node_id, welcome.generation), ("node-1", 4))
        self.assertEqual((welcome.cluster, welcome.cluster_id), ("dynakv", CLUSTER_ID))
        self.assertEqual(welcome.ring_version, 3)

    def test_what_a_read_found(self) -> None:
        fetched = self.answer("response.fetched.siblings")
        self.assertEqual(fetched.values, (b"Alice", b"Bob"))
        self.assertEqual(fetched.context, CONTEXT)
        bob = fetched.siblings[1]
        self.assertEqual((bob.actor, bob.counter), (0x0B0B0B0B0B0B0B0B, 300))
        self.assertEqual(bob.timestamp_ms, 1_700_000_000_000)
        absent = self.answer("response.fetched.absent")
        self.assertIsNone(absent.value)
        self.assertEqual(absent.context, self.golden["context.nothing-read"])

    def test_what_a_write_did(self) -> None:
        written = self.answer("response.put")
        self.assertEqual((written.effective_w, written.sloppy), (2, False))
        self.assertEqual(written.context, CONTEXT)
        self.assertTrue(self.answer("response.deleted.sloppy").sloppy)

    def test_errors(self) -> None:
        error = self.answer("response.error.all-options")
        self.assertIsInstance(error, QuorumUnavailableError)
        self.assertEqual((error.maybe_applied, error.retryable), (True, True))
        self.assertEqual((error.needed, error.got, error.ring_version), (2, 1, 3))
        self.assertIn("1 of 2 replicas answered", str(error))
        self.assertIsInstance(self.answer("response.error"), BadRequestError)

    def test_every_code_of_the_page_has_its_exception(self) -> None:
        rows = table("## Errors", "Code")
        self.assertGreaterEqual(len(rows), 17)
        for code, name, *_ in rows:
            error = messages.read_error(wire.u16(int(code)) + b"\x00\x00\x00")
            self.assertEqual((error.code, f"`{error.name}`"), (int(code), name))

    def test_an_unknown_error_goes_by_its_flags(self) -> None:
        error = messages.read_error(b"\x03\xe7\x01\x00\x05later")
        self.assertIs(type(error), DynakvError)
        self.assertEqual((error.code, error.maybe_applied, error.retryable), (999, True, False))

    def test_news_of_nodes(self) -> None:
        self.assertEqual(self.answer("response.stats").total_virtual_nodes, 450)
        health = self.answer("response.health")
        self.assertEqual((health.ready, health.reason), (False, "joining"))
        status = self.answer("response.status")
        (member,) = status.members
        self.assertEqual((member.node_id, member.state, member.zone), ("node-2", "dead", "b"))
        self.assertEqual((member.keys, member.disk_bytes), (150, 1 << 20))
        self.assertEqual(member.rebuilding_segments, 65_536)
        self.assertAlmostEqual(member.owns, 0.3345)
        ring = self.answer("response.ring")
        self.assertEqual((ring.version, ring.final), (3, True))
        # The address of now, not the one in the document.
        self.assertEqual(ring.members[2].address, "127.0.0.1:9082")
        self.answer("response.pong")

    def test_contexts_as_text(self) -> None:
        text = context_to_text(CONTEXT)
        self.assertNotIn("=", text)
        self.assertEqual(context_from_text(text), CONTEXT)
        for wrong in ("a", "é", "a+/b", "ab c"):
            with self.assertRaises(BadRequestError):
                context_from_text(wrong)


class PrimitiveTest(unittest.TestCase):
    def test_varints(self) -> None:
        self.assertEqual(wire.varint(300), b"\xac\x02")
        for value in (0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1):
            reader = wire.Reader(wire.varint(value))
            self.assertEqual((reader.varint(), reader.left), (value, 0))
        too_large = b"\xff" * 9 + b"\x02"
        for wrong in (b"", b"\x80", b"\x80\x00", b"\xff\x00", b"\x80" * 10, too_large):
            with self.assertRaises(MalformedError):
                wire.Reader(wrong).varint()

    def test_tags(self) -> None:
        body = wire.tagged(9, b"zz") + wire.tagged(1, b"\x01") + wire.tagged(1, b"\x02more")
        tags = wire.Reader(body).tags()
        self.assertEqual(tags[1].u8(), 2)
        for wrong in (b"\x01", b"\x01\x02a"):
            with self.assertRaises(MalformedError):
                wire.Reader(wrong).tags()

    def test_unknown_ends_are_skipped(self) -> None:
        fetched = b"\x01\x00\x00" + wire.tagged(77, b"new")
        self.assertEqual(messages.read_fetched(fetched).siblings, ())

    def test_wrong_values_are_refused(self) -> None:
        for body in (b"\x01\x02\x00", b"\x01\x00\x05abc"):
            with self.assertRaises(MalformedError):
                messages.read_written(body)
        with self.assertRaises(MalformedError):  # A count that asks for more than there is.
            messages.read_fetched(b"\x01\x00\xff\xff\xff\xff\x0f")
        for node_id in (b"\x00", b"\x03a b", b"\x41" + b"a" * 65):
            with self.assertRaises(MalformedError):
                wire.Reader(node_id).node_id()

    def test_addresses(self) -> None:
        self.assertEqual(wire.split_address("localhost:8080"), ("localhost", 8080))
        self.assertEqual(wire.split_address("[::1]:8080"), ("::1", 8080))
        for wrong in ("", "localhost", "localhost:", ":80", "a:0", "a:65536", "a:x", "a:-1"):
            with self.assertRaises(ValueError):
                wire.split_address(wrong)

    def test_batches_are_closed_in_time(self) -> None:
        small = [wire.Message(0x05, number, b"") for number in range(1, 5000)]
        large = [wire.Message(0x11, number, bytes(100_000)) for number in range(1, 8)]
        for sent in (small, large):
            received, frames, data = [], 0, b"".join(wire.pack(sent))
            while data:
                length = 4 + struct.unpack(">I", data[:4])[0]
                self.assertLess(length, wire.BATCH_BYTES + 101_000)
                received += open_bytes(data[:length])
                data, frames = data[length:], frames + 1
            self.assertGreater(frames, 1)
            self.assertEqual([m.request_id for m in received], [m.request_id for m in sent])
        self.assertEqual(b"".join(wire.pack(small[:1])), b"".join(wire.frame(0x05, 1, [b""])))


class HostileTest(unittest.TestCase):
    """No bytes make a decoder do anything but work or raise MalformedError."""

    def decode_all(self, body: bytes) -> None:
        for decode in DECODERS.values():
            try:
                decode(body)
            except MalformedError:
                pass

    def test_truncated_answers(self) -> None:
        for name, data in golden().items():
            if not name.startswith("response."):
                continue
            body = data[wire.HEADER_BYTES :]
            decode = DECODERS.get(data[9])
            if decode is None:
                continue  # An answer for nodes.
            for end in range(len(body)):
                try:
                    decode(body[:end])
                except MalformedError:
                    continue
                # What may be missing at the end are whole tags, and nothing else.
                wire.Reader(body[end:]).tags()

    def test_damaged_and_random_bodies(self) -> None:
        chance = random.Random(1)
        bodies = [data[20:] for name, data in golden().items() if name.startswith("re")]
        for _ in range(4000):
            body = bytearray(chance.choice(bodies))
            for _ in range(chance.randint(1, 4)):
                if body:
                    body[chance.randrange(len(body))] = chance.randrange(256)
            self.decode_all(bytes(body))
            self.decode_all(chance.randbytes(chance.randrange(40)))

    def test_every_flipped_bit_of_a_frame_is_noticed(self) -> None:
        data = golden()["response.fetched.siblings"]
        for bit in range(32, 8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(MalformedError):
                open_bytes(bytes(damaged))

    def test_lengths_are_checked_first(self) -> None:
        for length in (0, 15, wire.FRAME_LENGTH_MAX + 1, 0xFFFFFFFF):
            with self.assertRaises(MalformedError):
                wire.frame_length(struct.pack(">I", length) + bytes(16), wire.FRAME_LENGTH_MAX)
        http = b"HTTP/1.1 400 Bad Request"[:20]
        with self.assertRaises(MalformedError):
            wire.frame_length(http, wire.FRAME_LENGTH_MAX)

    def test_bad_batches(self) -> None:
        def batch(body: bytes) -> bytes:
            return b"".join(wire.frame(wire.BATCH, 0, [body]))

        ping = b"".join(wire.batch_item(wire.Message(0x85, 1, b"")))
        nested = b"".join(wire.batch_item(wire.Message(wire.BATCH, 1, b"")))
        self.assertEqual(open_bytes(batch(b"")), [])
        self.assertEqual(len(open_bytes(batch(ping * 4096))), 4096)
        for wrong in (b"zz", ping[:-1] + b"\x01", nested, ping * 4097):
            with self.assertRaises(MalformedError):
                open_bytes(batch(wrong))

    def test_another_version_is_refused(self) -> None:
        head = struct.pack(">BBHQ", 2, 0x85, 0, 1)
        data = struct.pack(">II", 16, zlib.crc32(head)) + head
        with self.assertRaises(MalformedError):
            open_bytes(data)
