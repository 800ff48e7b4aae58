"""Seeds in their forms, and names with several addresses."""

from __future__ import annotations

import socket
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from dynakv import Client, UnreachableError, WrongClusterError

from .fake import FakeNode
from .test_client import obliging


@contextmanager
def named(*addresses: str) -> Iterator[None]:
    """While it lasts a name stands for all of these."""

    def found(host: str, *_arguments: Any, **_options: Any) -> list[tuple[Any, ...]]:
        assert host == "a.name", host
        pairs = (address.rsplit(":", 1) for address in addresses)
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*stream, (ip, int(port))) for ip, port in pairs]

    with mock.patch("socket.getaddrinfo", found):
        yield


@contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


class SeedsTest(unittest.TestCase):
    def test_a_string_is_one_seed_or_some_with_commas(self) -> None:
        with FakeNode(obliging) as node:
            for seeds in (node.address, f"{nobody()}, {node.address}", (node.address,)):
                with self.subTest(seeds=seeds), Client(seeds) as client:
                    self.assertEqual(client.get("key").value, b"found")

    def test_what_is_no_seed_is_refused(self) -> None:
        for seeds in ("", "  ", [], "127.0.0.1", "127.0.0.1:1,", ",127.0.0.1:1"):
            with self.subTest(seeds=seeds), self.assertRaises(ValueError):
                Client(seeds)
        for seeds in (b"127.0.0.1:1", [b"127.0.0.1:1"], [1]):
            with self.subTest(seeds=seeds), self.assertRaises(TypeError):
                Client(seeds)  # type: ignore[arg-type]


class AddressesTest(unittest.TestCase):
    def test_every_address_of_a_name_is_tried(self) -> None:
        with FakeNode(obliging) as node, silent() as stuck:
            for others in ([nobody()], [stuck], [nobody(), stuck]):
                with self.subTest(others=others), named(*others, node.address):
                    # No other node to go to, and no second pass.
                    with Client("a.name:1", timeout=3.0) as client:
                        client.ping()

    def test_a_node_of_another_cluster_is_passed_over(self) -> None:
        other = FakeNode(obliging, cluster_id=8)
        with other, FakeNode(obliging) as node:
            other.refuses = True
            with named(other.address, node.address), Client("a.name:1") as client:
                self.assertEqual(client.get("key").value, b"found")
            with named(other.address, nobody()), Client("a.name:1", timeout=1.0) as client:
                with self.assertRaises(WrongClusterError):
                    client.get("key")

    def test_all_addresses_share_the_timeout(self) -> None:
        with silent() as one, silent() as two, silent() as three, named(one, two, three):
            with Client("a.name:1", timeout=2.0) as client:
                started = time.monotonic()
                with self.assertRaises(UnreachableError) as raised:
                    client.ping()
                # An attempt to connect has a share of the timeout, which all of them share.
                self.assertLess(time.monotonic() - started, 2.0)
                for part in ("a.name:1", one, two, three):
                    self.assertIn(part, raised.exception.message)
