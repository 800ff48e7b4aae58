"""What a cluster that is well never says: nodes that are started, filled, stopped and killed here."""

from __future__ import annotations

import signal
import time
import unittest
from contextlib import ExitStack

from dynakv import (
    Client,
    DynakvError,
    NotOwnerError,
    NotReadyError,
    OverloadedError,
    QuorumUnavailableError,
    RequestTimeoutError,
    messages,
    wire,
)
from dynakv.connection import Call, Connection

from .nodes import Node, binary, eventually

TIMEOUT_S = 30.0


class NodeTest(unittest.TestCase):
    def setUp(self) -> None:
        binary()
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def start(self, name: str, *arguments: str, **settings: str) -> Node:
        return self.stack.enter_context(Node(name, *arguments, **settings))

    def client(self, *seeds: Node, timeout: float = TIMEOUT_S, route: bool = True) -> Client:
        addresses = [node.address for node in seeds]
        return self.stack.enter_context(Client(addresses, timeout=timeout, route=route))

    def cluster(self, *arguments: str) -> list[Node]:
        """Three nodes that see each other."""
        nodes = [self.start("node-1", *arguments)]
        for name in ("node-2", "node-3"):
            nodes.append(self.start(name, "--seed", nodes[0].address, *arguments))
        client = self.client(*nodes)

        def whole() -> None:
            for node in nodes:
                stats = client.stats(node.address)
                self.assertEqual((stats.total_nodes, stats.alive_nodes), (3, 3))

        eventually("three nodes are one cluster", whole)
        return nodes

    def test_a_node_that_has_not_joined(self) -> None:
        node = self.start("lost", "--seed", "127.0.0.1:1")
        client = self.client(node, timeout=1.0)
        health = client.health()
        self.assertEqual((health.node_id, health.ready), ("lost", False))
        self.assertNotEqual(health.reason, "")
        for ask in (client.stats, client.status, client.ring, lambda: client.put("key", "value")):
            with self.assertRaises(NotReadyError) as raised:
                ask()
            self.assertFalse(raised.exception.maybe_applied)

    def test_a_node_that_is_full(self) -> None:
        node = self.start("full", DYNAKV_CONNECTIONS_MAX="1")
        first = self.client(node)
        eventually("the node is ready", lambda: first.put("key", "value"))
        second = self.client(node, timeout=1.0)
        with self.assertRaises(OverloadedError) as raised:
            second.put("key", "value")
        self.assertEqual(raised.exception.maybe_applied, False)
        first.close()
        patient = self.client(node)
        self.assertEqual(patient.get("key").value, b"value")

    def test_one_node_and_no_quorum_of_three(self) -> None:
        nodes = self.cluster()
        client = self.client(*nodes)
        client.put("key", "before")
        for node in nodes[1:]:
            node.process.kill()
            node.process.wait()
        alone = self.client(nodes[0], timeout=3.0, route=False)
        errors: list[DynakvError] = []

        def refused() -> None:
            with self.assertRaises(QuorumUnavailableError) as raised:
                alone.put("key", "after")
            errors.append(raised.exception)

        eventually("the write is refused", refused)
        self.assertEqual((errors[-1].needed, errors[-1].retryable), (2, True))
        self.assertEqual(alone.get("key", r=1).value, b"before")

    def test_nodes_that_stand_still(self) -> None:
        nodes = self.cluster()
        client = self.client(*nodes)
        client.put("key", "before")
        for node in nodes[1:]:
            node.process.send_signal(signal.SIGSTOP)
        # The node that runs waits for the others and says when the time is up.
        alone = self.client(nodes[0], timeout=2.0, route=False)
        with self.assertRaises((RequestTimeoutError, QuorumUnavailableError)):
            alone.put("key", "after", w=2)
        # One of them runs again; the one that does not is left for the others.
        nodes[1].process.send_signal(signal.SIGCONT)
        for number in range(30):
            client.put(f"key-{number}", "value")

    def test_a_request_that_may_not_be_passed_on(self) -> None:
        nodes = self.cluster("-n", "1", "-w", "1", "-r", "1")
        client = self.client(*nodes)
        client.put("key", "value")
        ring = client.ring()
        (owner,) = ring.owners(b"key")
        other = next(node for node in nodes if node.address != owner.address)
        connection = Connection.open(other.address, "", 0, TIMEOUT_S, TIMEOUT_S)
        self.addCleanup(connection.join)
        self.addCleanup(connection.close)
        body = messages.get(5000, b"key", None, False)
        plain = Call(messages.GET, body, messages.read_fetched)
        connection.send([plain], time.monotonic() + TIMEOUT_S)
        self.assertEqual(plain.answer.result(TIMEOUT_S).value, b"value", "any node takes any request")
        # A node's flag, which clients do not set; so it is put into the frame by hand.
        call = Call(messages.GET, body, messages.read_fetched)
        connection._waiting[77] = call
        connection._socket.sendall(b"".join(wire.frame(call.kind, 77, [body], flags=1)))
        with self.assertRaises(NotOwnerError) as raised:
            call.answer.result(TIMEOUT_S)
        # The first write seals the ring, and each node hears of that in its own time.
        self.assertIn(raised.exception.ring_version - ring.version, (-1, 0, 1))

    def test_values_lie_where_the_ring_says(self) -> None:
        nodes = self.cluster("-n", "1", "-w", "1", "-r", "1")
        client = self.client(*nodes)
        keys = [f"key-{number}" for number in range(300)]
        client.put_many({key: "value" for key in keys})
        ring = client.ring()
        expected = dict.fromkeys((member.address for member in ring.members), 0)
        for key in keys:
            (owner,) = ring.owners(key.encode())
            expected[owner.address] += 1
        for address, count in expected.items():
            self.assertEqual(client.stats(address).total_keys, count, address)

    def test_the_ring_is_followed_while_nodes_join(self) -> None:
        first = self.start("node-1")
        client = self.client(first)
        # Whoever reads while the ring is open knows a ring of one.
        eventually("the node is ready", lambda: client.get("key"))
        for name in ("node-2", "node-3"):
            self.start(name, "--seed", first.address)
        eventually(
            "three nodes are one cluster",
            lambda: self.assertEqual(client.stats().total_nodes, 3),
        )
        client.put("key", "seals the ring")

        def followed() -> None:
            client.get("key")
            ring = client._dispatcher._ring
            assert ring is not None
            self.assertEqual((len(ring.members), ring.final), (3, True))

        eventually("the client knows three members", followed)
        first.process.kill()
        first.process.wait()
        # The only seed is gone, and time may pass until the others believe it.
        begun = time.monotonic()
        while time.monotonic() - begun < 1:
            client.put("key", "value")
