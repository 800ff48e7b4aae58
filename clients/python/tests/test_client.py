"""The client, against nodes that lose, delay, damage and reorder."""

from __future__ import annotations

import socket
import threading
import time
import unittest
from unittest import mock

from dynakv import (
    BadRequestError,
    Client,
    ConflictError,
    ConnectionLostError,
    DynakvError,
    MalformedError,
    OverloadedError,
    PartialFailureError,
    QuorumUnavailableError,
    RequestTimeoutError,
    TooLargeError,
    UnreachableError,
    WrongClusterError,
    messages,
    wire,
)
from dynakv.messages import Fetched, Sibling
from dynakv.wire import Message

from .fake import FakeNode, error, fetched, frame, goaway, write_id, written

HANG_UP = [b""]


def obliging(_node: FakeNode, request: Message) -> list[bytes]:
    """Answers everything as one would wish."""
    if request.kind == messages.PING:
        return [frame(messages.PING | messages.ANSWER, request.request_id)]
    if request.kind == messages.GET:
        return [fetched(request.request_id, b"found")]
    return [written(request.request_id, request.kind)]


class RetryTest(unittest.TestCase):
    def test_a_write_keeps_its_id_from_node_to_node(self) -> None:
        with FakeNode(lambda *_: HANG_UP) as broken, FakeNode(obliging) as sound:
            for seeds in ([broken.address, sound.address], [sound.address, broken.address]):
                with Client(seeds) as client, mock.patch("random.shuffle"):
                    client.put("key", "value")
            (sent,) = broken.requests
            self.assertIn(write_id(sent), [write_id(request) for request in sound.requests])
            self.assertEqual(len({write_id(request) for request in sound.requests}), 2)

    def test_errors_marked_as_retryable_are_retried(self) -> None:
        def at_the_third(node: FakeNode, request: Message) -> list[bytes]:
            if len(node.requests) < 3:
                return [error(6, request.request_id, retryable=True)]
            return obliging(node, request)

        with FakeNode(at_the_third) as node, Client([node.address]) as client:
            client.put("key", "value")
            self.assertEqual(len(node.requests), 3)
            self.assertEqual(len({write_id(request) for request in node.requests}), 1)

    def test_other_errors_are_raised_at_once(self) -> None:
        with FakeNode(lambda _, request: [error(1, request.request_id)]) as node:
            with Client([node.address]) as client, self.assertRaises(BadRequestError):
                client.get("key")
            self.assertEqual(len(node.requests), 1)

    def test_an_unknown_code_goes_by_its_flags(self) -> None:
        def newer(node: FakeNode, request: Message) -> list[bytes]:
            return [error(900, request.request_id, retryable=len(node.requests) < 2)]

        with FakeNode(newer) as node, Client([node.address]) as client:
            with self.assertRaises(DynakvError) as raised:
                client.get("key")
            self.assertEqual((raised.exception.code, len(node.requests)), (900, 2))

    def test_doubt_from_an_earlier_attempt_is_not_forgotten(self) -> None:
        def lost_then_refused(node: FakeNode, request: Message) -> list[bytes]:
            if len(node.requests) == 1:
                return HANG_UP
            return [error(4, request.request_id, maybe_applied=False, retryable=False)]

        with FakeNode(lost_then_refused) as node, Client([node.address]) as client:
            with self.assertRaises(QuorumUnavailableError) as raised:
                client.put("key", "value")
            self.assertTrue(raised.exception.maybe_applied)

    def test_the_deadline_ends_all_retries(self) -> None:
        with FakeNode(lambda _, r: [error(6, r.request_id, retryable=True)]) as node:
            with Client([node.address], timeout=0.5) as client, self.assertRaises(OverloadedError):
                client.get("key")
            self.assertGreater(len(node.requests), 2)
            self.assertLess(len(node.requests), 40, "it backs off")

    def test_the_node_is_told_how_long_it_has(self) -> None:
        with FakeNode(obliging) as node, Client([node.address], timeout=5) as client:
            client.get("key", timeout=120)
            client.get("key")
            first, second = (wire.Reader(request.body).u32() for request in node.requests)
            self.assertEqual(first, 60_000)
            self.assertTrue(1 <= second <= 5000, "0 would stand for the node's default")


class ConnectionTest(unittest.TestCase):
    def test_answers_in_any_order_one_by_one_and_in_batches(self) -> None:
        held: list[bytes] = []

        def backwards(node: FakeNode, request: Message) -> list[bytes]:
            held.insert(0, fetched(request.request_id, bytes(request.body[5:])))
            if len(node.requests) < 100:
                return []
            unknown = fetched(999_999, b"nobody asked")
            single, rest = held[:50], held[50:]
            items = [wire.open_frame(f[:20], f[20:])[0] for f in rest]
            batch = b"".join(wire.pack(items))
            # In pieces that end nowhere in particular.
            data = b"".join([unknown, *single, batch])
            return [data[at : at + 7] for at in range(0, len(data), 7)]

        with FakeNode(backwards) as node, Client([node.address]) as client:
            with client.pipeline() as pipeline:
                pending = [pipeline.get(f"key-{number:03}") for number in range(100)]
            for number, each in enumerate(pending):
                self.assertEqual(each.result().value, f"key-{number:03}".encode())

    def test_many_requests_come_in_few_frames(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:
            client.put_many({f"key-{number}": "value" for number in range(1000)})
            self.assertEqual(len(node.requests), 1000)
            self.assertLess(node.frames, 10)

    def test_sloppy_writes_say_so(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:
            client.put("key", "value")
            client.put("key", "value", w=2, sloppy=True)
            client.delete("key", sloppy=True)
            client.put_many({"key": "value"}, sloppy=True)
            with client.pipeline() as pipeline:
                pipeline.put("key", "value", sloppy=True)
                pipeline.delete("key", sloppy=True)
            strict, *sloppy = node.requests
            tag = wire.tagged(5, b"\x01")
            self.assertFalse(bytes(strict.body).endswith(tag))
            self.assertEqual(len(sloppy), 5)
            for request in sloppy:
                self.assertTrue(bytes(request.body).endswith(tag), request)

    def test_some_of_many_fail(self) -> None:
        def picky(node: FakeNode, request: Message) -> list[bytes]:
            if b"bad" in bytes(request.body):
                return [error(1, request.request_id)]
            return obliging(node, request)

        with FakeNode(picky) as node, Client([node.address]) as client:
            with self.assertRaises(PartialFailureError) as raised:
                client.get_many(["good", "bad", "better"])
            results = raised.exception.results
            self.assertIsInstance(results[1], BadRequestError)
            self.assertEqual([results[0].value, results[2].value], [b"found", b"found"])
            self.assertFalse(raised.exception.retryable)

    def test_a_damaged_answer_is_not_taken(self) -> None:
        def damaged_once(node: FakeNode, request: Message) -> list[bytes]:
            answer = bytearray(fetched(request.request_id, b"found"))
            if len(node.requests) == 1:
                answer[-1] ^= 1
            return [bytes(answer)]

        with FakeNode(damaged_once) as node, Client([node.address]) as client:
            self.assertEqual(client.get("key").value, b"found")
            self.assertEqual(len(node.hellos), 2, "after damage no boundary can be trusted")

    def test_an_answer_of_another_form_is_an_error(self) -> None:
        for answer in (b"\x01", b"\x01\x00\x02"):
            body = answer

            def wrong(_node: FakeNode, request: Message, body: bytes = body) -> list[bytes]:
                return [frame(messages.PUT | messages.ANSWER, request.request_id, body)]

            with FakeNode(wrong) as node, Client([node.address]) as client:
                with self.assertRaises(MalformedError) as raised:
                    client.put("key", "value")
                self.assertTrue(raised.exception.maybe_applied)

    def test_a_node_that_falls_silent_is_left(self) -> None:
        with FakeNode(lambda *_: []) as silent, FakeNode(obliging) as sound:
            with mock.patch("random.shuffle"):
                with Client([silent.address, sound.address], timeout=3) as client:
                    self.assertEqual(client.get("key").value, b"found")
            kinds = [request.kind for request in silent.requests]
            self.assertEqual(kinds, [messages.GET, messages.PING], "it was asked for a sign of life")

    def test_a_slow_node_that_lives_is_waited_for(self) -> None:
        def slow(node: FakeNode, request: Message) -> list[bytes]:
            if request.kind == messages.GET:
                late = fetched(request.request_id, b"late")
                sockets = list(node._sockets)
                threading.Timer(3.0, lambda: sockets[-1].sendall(late)).start()
                return []
            return obliging(node, request)

        with FakeNode(slow) as node, Client([node.address], timeout=6) as client:
            # Without answered pings it would be given up after 2.7 s.
            self.assertEqual(client.get("key").value, b"late")
            self.assertEqual(len(node.hellos), 1)

    def test_a_node_that_does_not_shake_hands(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute, FakeNode(obliging) as sound:
            address = f"127.0.0.1:{mute.getsockname()[1]}"
            with mock.patch("random.shuffle"), Client([address, sound.address], timeout=2) as client:
                self.assertEqual(client.get("key").value, b"found")

    def test_a_node_that_does_not_read(self) -> None:
        release = threading.Event()

        def stuck(_node: FakeNode, _request: Message) -> list[bytes]:
            release.wait(30)
            return HANG_UP

        with FakeNode(stuck) as node, Client([node.address], timeout=1) as client:
            try:
                begun = time.monotonic()
                for _ in range(2):  # The first one is read; the next ones fill the socket.
                    with self.assertRaises(RequestTimeoutError) as raised:
                        client.put("key", bytes(16 * 1024 * 1024))
                    self.assertTrue(raised.exception.maybe_applied)
                self.assertLess(time.monotonic() - begun, 20)
            finally:
                release.set()

    def test_lost_connections_are_made_again(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:
            for _ in range(3):
                client.get("key")
                node.hang_up()
            self.assertGreaterEqual(len(node.hellos), 2)

    def test_an_error_for_the_connection_ends_it(self) -> None:
        def once(node: FakeNode, request: Message) -> list[bytes]:
            return [error(16, 0)] if len(node.requests) == 1 else obliging(node, request)

        with FakeNode(once) as node, Client([node.address]) as client:
            self.assertEqual(client.get("key").value, b"found")
            self.assertEqual(len(node.hellos), 2)

    def test_what_a_leaving_node_did_not_take_goes_elsewhere_without_doubt(self) -> None:
        held: list[int] = []

        def leaving(leaver: FakeNode, request: Message) -> list[bytes]:
            if request.kind == messages.PING:
                return [frame(messages.PING | messages.ANSWER, request.request_id)]
            if len(leaver.hellos) > 1:
                return [error(9, request.request_id, retryable=True)]  # not_ready
            held.append(request.request_id)
            # The first three were taken; what is behind them gets no answer.
            return [goaway(held[2])] + [written(number) for number in held] if len(held) == 3 else []

        with FakeNode(leaving) as node, FakeNode(obliging) as other:
            with Client([node.address, other.address], route=False) as client:
                with client.pipeline() as pipeline:
                    pending = [pipeline.put(f"key-{number}", "value") for number in range(40)]
                for each in pending:
                    each.result()
            self.assertEqual(len(other.requests), 37)
            self.assertIn(b"\x03\x01\x01", node.hellos[0])

        def refusing(_node: FakeNode, request: Message) -> list[bytes]:
            return [goaway(request.request_id - 1)]

        with FakeNode(refusing) as node, Client([node.address], timeout=1) as client:
            with self.assertRaises(DynakvError) as raised:
                client.put("key", "value")
            self.assertFalse(raised.exception.maybe_applied)

    def test_a_frame_over_the_limit_is_not_sent_again_and_again(self) -> None:
        with FakeNode(lambda *_: [error(16, 0)]) as node, Client([node.address]) as client:
            with self.assertRaises(MalformedError):
                client.put("key", bytes(1024 * 1024))
            self.assertEqual(len(node.requests), 1)

    def test_threads_share_a_connection(self) -> None:
        def echo(_node: FakeNode, request: Message) -> list[bytes]:
            return [fetched(request.request_id, bytes(request.body[5:]))]

        with FakeNode(echo) as node, Client([node.address], timeout=30) as client:
            wrong: list[object] = []

            def work(name: int) -> None:
                for number in range(200):
                    key = f"{name:02}-{number:03}".encode()
                    if client.get(key).value != key:
                        wrong.append(key)

            threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual((wrong, len(node.hellos)), ([], 1))


class ClusterTest(unittest.TestCase):
    def test_the_first_cluster_is_kept_to(self) -> None:
        with FakeNode(obliging, cluster_id=1) as first, FakeNode(obliging, cluster_id=2) as other:
            with Client([first.address]) as client:
                client.get("key")
                with self.assertRaises(WrongClusterError):
                    client.ping(other.address)
                self.assertIn(wire.tagged(2, wire.u128(1)), other.hellos[0])

    def test_another_cluster_is_left(self) -> None:
        with FakeNode(obliging, cluster="other") as node:
            with Client([node.address], cluster="dynakv") as client:
                with self.assertRaises(WrongClusterError):
                    client.get("key")

    def test_a_node_without_a_cluster_gets_no_data(self) -> None:
        with FakeNode(obliging, cluster_id=0) as new, FakeNode(obliging) as old:
            with mock.patch("random.shuffle"), Client([new.address, old.address]) as client:
                client.put("key", "value")
                client.ping(new.address)
            self.assertEqual([r.kind for r in new.requests], [messages.PING])
            self.assertEqual([r.kind for r in old.requests], [messages.PUT])

    def test_nobody_is_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        with Client([address], timeout=0.5) as client:
            for ask in (client.health, lambda: client.get("key"), lambda: client.put("a", "b")):
                with self.assertRaises(UnreachableError) as raised:
                    ask()
                self.assertIn(address, str(raised.exception))
                self.assertFalse(raised.exception.maybe_applied)

    def test_a_closed_client(self) -> None:
        with FakeNode(lambda *_: []) as node:
            client = Client([node.address], timeout=30)
            raised: list[DynakvError] = []

            def wait() -> None:
                try:
                    client.put("key", "value")
                except DynakvError as error:
                    raised.append(error)

            waiting = threading.Thread(target=wait)
            waiting.start()
            while not node.requests:
                time.sleep(0.01)
            client.close()
            waiting.join()
            self.assertTrue(raised[0].maybe_applied)
            self.assertIsInstance(raised[0], ConnectionLostError)
            with self.assertRaises(UnreachableError):
                client.get("key")


class ArgumentTest(unittest.TestCase):
    def test_what_cannot_work_is_not_sent(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:
            for call, expected in (
                (lambda: client.get(""), BadRequestError),
                (lambda: client.get("k" * 4097), TooLargeError),
                (lambda: client.put("k", bytes(16 * 1024 * 1024 + 1)), TooLargeError),
                (lambda: client.put("k", b"", context=bytes(81921)), TooLargeError),
                (lambda: client.put("k", b"", w=0), BadRequestError),
                (lambda: client.get("k", r=256), BadRequestError),
                (lambda: client.put("k", 5), TypeError),
                (lambda: client.put("k", b"", context="text"), TypeError),
                (lambda: client.put("k", b"", ttl=0), ValueError),
                (lambda: client.get("k", timeout=float("nan")), ValueError),
                (lambda: client.get("k", timeout=float("inf")), ValueError),
                (lambda: client.put("k", b"", ttl=1e30), ValueError),
                (lambda: client.ping("nowhere"), ValueError),
            ):
                with self.assertRaises(expected):
                    call()
            self.assertEqual(node.requests, [])
        for seeds in ([], ["nowhere"]):
            with self.assertRaises(ValueError):
                Client(seeds)

    def test_bytes_of_all_kinds(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:
            for value in ("é", "é".encode(), bytearray("é".encode()), memoryview("é".encode())):
                client.put("k", value)
            bodies = {bytes(request.body[20:]) for request in node.requests}
            self.assertEqual(bodies, {b"\x01k\x02\xc3\xa9"})

    def test_one_value_of_several(self) -> None:
        siblings = (Sibling(b"a", 1, 1, 0), Sibling(b"b", 2, 1, 0))
        with self.assertRaises(ConflictError) as raised:
            _ = Fetched(siblings, b"context", 2).value
        self.assertEqual((raised.exception.siblings, raised.exception.context), (siblings, b"context"))
