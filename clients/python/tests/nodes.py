"""Real nodes: those that the environment names, and those that a test starts itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any, Callable, TypeVar

T = TypeVar("T")

#: Far longer than anything takes on a machine that is not stuck.
PATIENCE_S = 60.0


def servers() -> list[str]:
    """The addresses of a running cluster of three nodes, or the test is skipped."""
    given = os.environ.get("DYNAKV_TEST_SERVERS")
    if not given:
        raise unittest.SkipTest("DYNAKV_TEST_SERVERS names no running cluster")
    return given.split(",")


def binary() -> str:
    """The dynakv program, or the test is skipped."""
    given = os.environ.get("DYNAKV_TEST_BINARY")
    if not given:
        raise unittest.SkipTest("DYNAKV_TEST_BINARY names no dynakv program")
    return given


def dynakv(
    address: str, *arguments: str, stdin: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    """Runs the command line, which must end with this exit code."""
    finished = subprocess.run(
        [binary(), "--server", address, *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        env=clean_environment(),
    )
    assert finished.returncode == code, finished
    return finished


def clean_environment() -> dict[str, str]:
    """Without the settings of dynakv."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DYNAKV_")}


def eventually(what: str, attempt: Callable[[], T]) -> T:
    """Tries until it does not raise; what it raises at the end is the reason."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except Exception as error:
            if time.monotonic() >= deadline:
                raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}: {error}") from error
        time.sleep(0.05)


class Node:
    """A process that a test has started, with a directory of its own."""

    def __init__(self, name: str, *arguments: str, **settings: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dynakv-python-")
        self._log = open(Path(self._directory.name) / "log", "w+b")
        self.process = subprocess.Popen(
            [binary(), "serve", "--id", name, "--port", "0", "--http-port", "0", *arguments],
            cwd=self._directory.name,
            env={**clean_environment(), **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{name} did not start: {self.log()}")
        listening: dict[str, Any] = json.loads(line)
        self.address = f"127.0.0.1:{listening['port']}"

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        self._directory.cleanup()

    def log(self) -> str:
        """What it wrote to its standard error."""
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace")
