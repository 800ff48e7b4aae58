"""The client against a running cluster of three nodes, side by side with the command line."""

from __future__ import annotations

import contextlib
import io
import json
import random
import secrets
import time
import unittest
import unittest.mock
from collections import Counter
from pathlib import Path
from typing import Any

from dynakv import (
    BadRequestError,
    Client,
    ConflictError,
    DynakvError,
    TooLargeError,
    TooManySiblingsError,
    UnknownKindError,
    VersionMismatchError,
    WrongClusterError,
    context_from_text,
    context_to_text,
    messages,
    wire,
)
from dynakv.connection import Call, Connection

from .nodes import dynakv, eventually, servers

#: Generous: the machine may be busy with other tests.
TIMEOUT_S = 30.0


class ClusterTest(unittest.TestCase):
    servers: list[str]
    client: Client

    @classmethod
    def setUpClass(cls) -> None:
        cls.servers = servers()
        cls.client = Client(cls.servers, cluster="dynakv", timeout=TIMEOUT_S)
        cls.addClassCleanup(cls.client.close)

    def setUp(self) -> None:
        #: Of this test in this run alone.
        self.key = f"{self.id()}:{secrets.token_hex(8)}"


class DataTest(ClusterTest):
    def test_set_get_delete(self) -> None:
        absent = self.client.get(self.key)
        self.assertEqual((absent.siblings, absent.value), ((), None))
        written = self.client.put(self.key, "Alice")
        self.assertEqual((written.effective_w, written.sloppy), (2, False))
        fetched = self.client.get(self.key)
        self.assertEqual((fetched.value, fetched.effective_r), (b"Alice", 2))
        self.assertEqual(fetched.context, written.context)
        self.client.delete(self.key)
        self.assertIsNone(self.client.get(self.key).value)

    def test_values_come_back_as_they_were(self) -> None:
        for length in (0, 1, 127, 128, 4096, 300_000, 1024 * 1024):
            value = random.Random(length).randbytes(length)
            self.client.put(self.key, value)
            for r in (1, 2, 3):
                self.assertTrue(self.client.get(self.key, r=r).value == value, f"{length} bytes")

    def test_keys_of_all_lengths(self) -> None:
        # The edges of the hash, so that each way of it meets the nodes' own.
        tail = secrets.token_bytes(4096)
        keys = [tail[:length] for length in (1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1025, 4096)]
        for key in keys:
            self.client.put(key, key[-1:])
        self.assertEqual([each.value for each in self.client.get_many(keys)], [k[-1:] for k in keys])

    def test_options(self) -> None:
        self.assertEqual(self.client.put(self.key, "all", w=3).effective_w, 3)
        self.assertEqual(self.client.get(self.key, r=1).effective_r, 1)
        self.assertEqual(self.client.get(self.key, r=3, repair_first=True).value, b"all")
        self.client.put(self.key, "short-lived", ttl=0.3)

        def expired() -> None:
            self.assertIsNone(self.client.get(self.key).value)

        eventually("the value expires", expired)
        self.client.put(self.key, "long-lived", ttl=3600)
        self.assertEqual(self.client.get(self.key).value, b"long-lived")

    def test_concurrent_writes_are_kept_and_merged(self) -> None:
        seen = self.client.get(self.key)
        self.client.put(self.key, "milk", context=seen.context)
        self.client.put(self.key, "bread", context=seen.context)
        both = self.client.get(self.key, r=3)
        self.assertEqual(sorted(both.values), [b"bread", b"milk"])
        with self.assertRaises(ConflictError):
            _ = both.value
        written = self.client.put(self.key, "milk, bread", context=both.context)
        self.assertEqual(self.client.get(self.key).value, b"milk, bread")
        # The context of a write is as good as that of a read.
        self.client.delete(self.key, context=written.context)
        self.assertIsNone(self.client.get(self.key).value)
        # A delete that has not seen a write leaves it.
        self.client.put(self.key, "new", context=self.client.get(self.key).context)
        self.client.delete(self.key, context=both.context)
        self.assertEqual(self.client.get(self.key).values, (b"new",))

    def test_a_write_sent_twice_is_one_sibling(self) -> None:
        context = self.client.get(self.key).context
        write_id = secrets.randbits(128)
        body = messages.put(5000, write_id, self.key.encode(), b"once", context=context)
        for server in (self.servers[0], self.servers[1], self.servers[0]):
            connection = Connection.open(server, "", 0, TIMEOUT_S, TIMEOUT_S)
            call = Call(messages.PUT, body, messages.read_written, is_write=True)
            connection.send([call], time.monotonic() + TIMEOUT_S)
            call.answer.result(timeout=TIMEOUT_S)
            connection.close()
            connection.join()
        self.assertEqual(self.client.get(self.key, r=3).values, (b"once",))

    def test_many(self) -> None:
        items = {f"{self.key}:{number}": f"value {number}" for number in range(5000)}
        self.client.put_many(items)
        values = [each.value for each in self.client.get_many(items)]
        self.assertEqual(values, [value.encode() for value in items.values()])
        large = {f"{self.key}:large:{number}": bytes([number]) * 500_000 for number in range(40)}
        self.client.put_many(large)
        values = [each.value for each in self.client.get_many(large)]
        self.assertTrue(values == list(large.values()))

    def test_a_pipeline(self) -> None:
        keys = [f"{self.key}:{number}" for number in range(300)]
        with self.client.pipeline() as pipeline:
            writes = [pipeline.put(key, key) for key in keys]
        contexts = [each.result().context for each in writes]
        with self.client.pipeline() as pipeline:
            reads = [pipeline.get(key) for key in keys]
            deletes = [pipeline.delete(key, context=context) for key, context in zip(keys[:100], contexts)]
            wrong = pipeline.put(keys[0], "", context=contexts[1])
        self.assertEqual([each.result().value for each in reads[100:]], [k.encode() for k in keys[100:]])
        for each in deletes:
            each.result()
        with self.assertRaises(BadRequestError):
            wrong.result()


class ReadmeTest(ClusterTest):
    def test_its_programs_run(self) -> None:
        text = (Path(__file__).resolve().parents[1] / "README.md").read_text()
        programs = [block.split("```")[0] for block in text.split("```python\n")[1:]]
        self.assertGreaterEqual(len(programs), 4)
        names: dict[str, Any] = {"client": self.client}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            for program in programs:
                for port, server in zip((8080, 8081, 8082), self.servers):
                    program = program.replace(f"127.0.0.1:{port}", server)
                exec(compile(program, "README.md", "exec"), names)
                names["client"] = self.client  # The first one closes its own.
        self.assertIn("b'hello'", printed.getvalue())
        self.assertEqual(len(names["values"]), 1000)


class CommandLineTest(ClusterTest):
    def test_each_reads_what_the_other_wrote(self) -> None:
        value = secrets.token_bytes(1024 * 1024)
        self.client.put(self.key, value)
        for server in self.servers:
            self.assertTrue(dynakv(server, "get", self.key).stdout == value)
        value = secrets.token_bytes(1024 * 1024)
        dynakv(self.servers[0], "put", self.key, "-", stdin=value)
        self.assertTrue(self.client.get(self.key).value == value)
        self.client.delete(self.key)
        dynakv(self.servers[1], "get", self.key, code=3)

    def test_each_takes_the_contexts_of_the_other(self) -> None:
        first, second, third = self.servers
        self.client.put(self.key, "empty")
        seen = json.loads(dynakv(first, "get", self.key, "--output", "json").stdout)
        self.client.put(self.key, "milk", context=context_from_text(seen["context"]))
        own = self.client.get(self.key)
        self.assertEqual(own.values, (b"milk",))
        # Both are late now: they had seen "empty" and "milk".
        dynakv(second, "put", self.key, "bread", "--context", context_to_text(own.context))
        dynakv(third, "put", self.key, "eggs", "--context", seen["context"])
        both = self.client.get(self.key, r=3)
        self.assertEqual(sorted(both.values), [b"bread", b"eggs"])
        conflict = json.loads(dynakv(first, "get", self.key, "--output", "json", code=5).stdout)
        self.assertEqual(context_from_text(conflict["context"]), both.context)
        names = {f"{each.actor:016x}:{each.counter}" for each in both.siblings}
        self.assertEqual({each["dot"] for each in conflict["siblings"]}, names)
        dynakv(first, "put", self.key, "all", "--context", context_to_text(both.context))
        self.assertEqual(self.client.get(self.key).value, b"all")


class NodesTest(ClusterTest):
    def test_news_of_each_node(self) -> None:
        for server in self.servers:
            self.client.ping(server)
            self.assertTrue(self.client.health(server).ready)
            stats = self.client.stats(server)
            shown = json.loads(dynakv(server, "stats", "--output", "json").stdout)
            self.assertEqual((stats.node_id, stats.address), (shown["node_id"], server))
            self.assertEqual((stats.n, stats.w, stats.r), (3, 2, 2))
            self.assertEqual(stats.virtual_nodes_per_node, 150)
            self.assertEqual((stats.total_nodes, stats.alive_nodes), (3, 3))
            status = self.client.status(server)
            self.assertEqual((status.node_id, status.cluster), (stats.node_id, "dynakv"))
            self.assertEqual([member.state for member in status.members], ["alive"] * 3)
            self.assertEqual({member.address for member in status.members}, set(self.servers))

    def test_the_ring_is_the_nodes_own(self) -> None:
        self.client.put(self.key, "seals the ring")
        ring = self.client.ring()
        self.assertTrue(ring.final)
        self.assertEqual({member.address for member in ring.members}, set(self.servers))
        first = Counter(ring.owners_of_segment(number)[0].node_id for number in range(65_536))
        for member in self.client.status().members:
            # The nodes tell it in hundredths of a percent.
            self.assertAlmostEqual(first[member.node_id] / 65_536, member.owns, delta=0.0002)

    def test_blind_writes_are_minted_by_the_first_owner(self) -> None:
        ring = self.client.ring()
        keys = [f"{self.key}:{number}" for number in range(300)]
        minted: dict[str, set[int]] = {}
        for seed in self.servers:
            # Each seed passes on what is not its own, by the nodes' own arithmetic.
            with Client([seed], timeout=TIMEOUT_S, route=False) as client:
                client.put_many({key: seed for key in keys})
        for key, fetched in zip(keys, self.client.get_many(keys)):
            (sibling,) = fetched.siblings
            owner = ring.owners(key.encode())[0].node_id
            minted.setdefault(owner, set()).add(sibling.actor)
        self.assertEqual(set(minted), {member.node_id for member in ring.members})
        self.assertEqual([len(actors) for actors in minted.values()], [1, 1, 1])
        self.assertEqual(len(set.union(*minted.values())), 3)


class ErrorTest(ClusterTest):
    def test_bad_requests(self) -> None:
        context = self.client.put(self.key, "value").context
        damaged = bytes([*context[:-1], context[-1] ^ 1])
        for call in (
            lambda: self.client.put(self.key + "x", "value", context=context),
            lambda: self.client.put(self.key, "value", context=damaged),
            lambda: self.client.put(self.key, "value", context=b""),
            lambda: self.client.get(self.key, r=4),
            lambda: self.client.put(self.key, "value", w=4),
        ):
            with self.assertRaises(BadRequestError) as raised:
                call()
            error = raised.exception
            self.assertEqual((error.code, error.maybe_applied, error.retryable), (1, False, False))
        self.assertEqual(self.client.get(self.key).values, (b"value",))

    def test_large_values(self) -> None:
        # The last one is beyond the largest frame that the node takes, too: it is passed over, and the connection lives.
        for length in (1024 * 1024 + 1, 5 * 1024 * 1024, 6 * 1024 * 1024):
            with self.assertRaises(TooLargeError) as raised:
                self.client.put(self.key, bytes(length))
            self.assertFalse(raised.exception.maybe_applied)
        self.assertIsNone(self.client.get(self.key).value)

    def test_siblings_without_end(self) -> None:
        context = self.client.get(self.key).context
        with self.assertRaises(TooManySiblingsError) as raised:
            for number in range(200):
                self.client.put(self.key, f"{number}", context=context)
        self.assertFalse(raised.exception.maybe_applied)
        fetched = self.client.get(self.key, r=3)
        self.assertEqual(len(fetched.siblings), 100)
        self.client.put(self.key, "merged", context=fetched.context)
        self.assertEqual(self.client.get(self.key).value, b"merged")

    def test_wrong_clusters(self) -> None:
        with Client(self.servers, cluster="other", timeout=TIMEOUT_S) as client:
            with self.assertRaises(WrongClusterError):
                client.get(self.key)
        with self.assertRaises(WrongClusterError):
            Connection.open(self.servers[0], "dynakv", 5, TIMEOUT_S, TIMEOUT_S)

    def test_errors_of_the_protocol(self) -> None:
        connection = Connection.open(self.servers[0], "", 0, TIMEOUT_S, TIMEOUT_S)
        self.addCleanup(connection.join)
        self.addCleanup(connection.close)

        def ask(kind: int, body: bytes) -> DynakvError:
            call = Call(kind, body, messages.read_nothing)
            connection.send([call], time.monotonic() + TIMEOUT_S)
            with self.assertRaises(DynakvError) as raised:
                call.answer.result(timeout=TIMEOUT_S)
            return raised.exception

        self.assertIsInstance(ask(0x7F, b""), UnknownKindError)
        self.assertIsInstance(ask(messages.GET, b""), BadRequestError)
        self.assertIsInstance(ask(messages.GET, wire.u32(0) + b"\x00"), BadRequestError)
        self.assertIsInstance(ask(messages.GET, wire.u32(0) + wire.sized(bytes(4097))), TooLargeError)
        self.assertIsInstance(ask(0x33, b""), BadRequestError)  # FETCH_RING is for nodes.
        self.assertTrue(connection.alive, "it goes on after each of them")
        self.assertIn("batch", str(ask(wire.BATCH, b"no items")))
        self.assertFalse(connection.alive)

    def test_no_common_version(self) -> None:
        newer = messages.hello("", 0).replace(b"DYNAKV\x01\x01", b"DYNAKV\x02\x02")
        with unittest.mock.patch("dynakv.messages.hello", return_value=newer):
            with self.assertRaises(VersionMismatchError):
                Connection.open(self.servers[0], "", 0, TIMEOUT_S, TIMEOUT_S)
