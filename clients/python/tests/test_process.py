"""Processes: a client after a fork, and errors that travel between processes."""

from __future__ import annotations

import copy
import os
import pickle
import time
import unittest
import warnings
from typing import Callable

import dynakv
from dynakv import Client, ConflictError, DynakvError, ForkedError, PartialFailureError
from dynakv.errors import error_of_code
from dynakv.messages import Sibling
from dynakv.wire import Message

from .fake import FakeNode
from .test_client import obliging


def in_child(what: Callable[[], str]) -> str:
    """What this gives in a forked process; the test fails when that hangs."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Of the threads of the client, whose absence in the child is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            told = what()
        except BaseException as error:  # It must not go on as a second run of the tests.
            told = f"raised {error!r}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + 30
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)
            raise AssertionError("the child hangs")
        time.sleep(0.01)
    with os.fdopen(reading) as stream:
        return stream.read()


def outcome(call: Callable[[], object]) -> str:
    """The name of what a call raises, and whether it says that it may have been applied."""
    try:
        call()
    except DynakvError as error:
        return f"{type(error).__name__} {error.maybe_applied}"
    return "done"


@unittest.skipUnless(hasattr(os, "fork"), "there is no fork here")
class ForkTest(unittest.TestCase):
    def test_a_client_of_the_parent_is_refused_in_the_child(self) -> None:
        with FakeNode(obliging) as node, Client([node.address], timeout=2.0) as client:
            client.put("key", "value")
            uses: list[Callable[[], object]] = [
                lambda: client.get("key"),
                lambda: client.put("key", "value"),
                lambda: client.delete("key"),
                lambda: client.get_many(["key"]),
                lambda: client.put_many({"key": "value"}),
                lambda: client.pipeline().put("key", "value"),
                client.ping,
            ]
            asked = len(node.requests)
            for use in uses:
                with self.subTest(use=use):
                    self.assertEqual(in_child(lambda: outcome(use)), "ForkedError False")
            self.assertEqual(len(node.requests), asked)
            # The child's end is not the parent's.
            self.assertEqual(in_child(lambda: outcome(client.close)), "done")
            self.assertEqual(client.get("key").value, b"found")
            self.assertEqual(len(node.hellos), 1)

    def test_the_error_says_what_to_do(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:

            def text() -> str:
                try:
                    client.get("key")
                except ForkedError as error:
                    return str(error)
                return "done"

            told = in_child(text)
            for part in (str(os.getpid()), "fork", "make a Client in"):
                self.assertIn(part, told)

    def test_a_request_that_waits_may_have_been_applied(self) -> None:
        def mute(_node: FakeNode, _request: Message) -> list[bytes]:
            return []

        with FakeNode(mute) as node, Client([node.address], timeout=2.0) as client:
            pipeline = client.pipeline()
            write, read = pipeline.put("key", "value"), pipeline.get("key")
            self.assertEqual(in_child(lambda: outcome(write.result)), "ForkedError True")
            self.assertEqual(in_child(lambda: outcome(read.result)), "ForkedError False")

    def test_a_client_of_the_child_works(self) -> None:
        with FakeNode(obliging) as node, Client([node.address]) as client:
            client.get("key")

            def anew() -> str:
                with Client([node.address]) as another:
                    return another.get("key").value.decode()

            self.assertEqual(in_child(anew), "found")

    def test_a_client_is_not_pickled(self) -> None:
        with Client("127.0.0.1:1") as client, self.assertRaisesRegex(TypeError, "make one in each process"):
            pickle.dumps(client)


class ErrorTest(unittest.TestCase):
    def test_every_error_travels(self) -> None:
        plain = error_of_code(
            4, "too few", maybe_applied=True, retryable=True, needed=2, got=1, ring_version=7
        )
        unknown = error_of_code(900, "newer", maybe_applied=False, retryable=True)
        conflict = ConflictError([Sibling(b"a", 1, 2, 3), Sibling(b"b", 2, 2, 3)], b"context")
        partial = PartialFailureError([b"fine", plain, conflict])
        kinds = [kind for kind in vars(dynakv).values() if isinstance(kind, type)]
        errors = [kind for kind in kinds if issubclass(kind, DynakvError)]
        self.assertGreater(len(errors), 20)
        special = (ConflictError, PartialFailureError)
        made = [kind("said", maybe_applied=True) for kind in errors if kind not in special]
        for error in [plain, unknown, conflict, partial, *made]:
            for travelled in (
                *(pickle.loads(pickle.dumps(error, it)) for it in range(pickle.HIGHEST_PROTOCOL + 1)),
                copy.copy(error),
                copy.deepcopy(error),
            ):
                with self.subTest(error=error):
                    self.assertIs(type(travelled), type(error))
                    self.assertEqual(str(travelled), str(error))
                    self.assertEqual(travelled.args, error.args)
                    self.assertEqual(travelled.code, error.code)
                    self.assertEqual(
                        (travelled.maybe_applied, travelled.retryable),
                        (error.maybe_applied, error.retryable),
                    )
        travelled = pickle.loads(pickle.dumps(partial))
        self.assertEqual(travelled.results[0], b"fine")
        self.assertEqual(travelled.failures[0].needed, 2)
        self.assertEqual(travelled.failures[1].siblings, conflict.siblings)
