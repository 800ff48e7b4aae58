"""Writes until its standard input ends, and says how that went: used while nodes are killed.

Every line on standard output is a count of writes. At the end everything that was acknowledged is read
again; the exit code is 0 when no request failed and nothing is missing.
"""

from __future__ import annotations

import sys
import threading
from typing import Callable

from dynakv import Client, DynakvError


def main() -> int:
    """Runs the writer; gives its exit code."""
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    failures: list[str] = []
    written: dict[str, str] = {}
    with Client(sys.argv[1].split(","), timeout=30.0) as client:

        def attempt(items: dict[str, str], request: Callable[[dict[str, str]], object]) -> None:
            try:
                request(items)
                written.update(items)
            except DynakvError as error:
                failures.append(f"{list(items)}: {type(error).__name__}: {error}")

        number = 0
        while not ended.is_set():
            items = {f"steady:{number + at}": f"{number + at}" for at in range(20)}
            keys = list(items)
            for key in keys[:10]:
                attempt({key: items[key]}, lambda one: client.put(*next(iter(one.items()))))
            attempt({key: items[key] for key in keys[10:]}, client.put_many)
            number += len(items)
            print(number, flush=True)
        keys = list(written)
        found = client.get_many(keys)
        for key, fetched in zip(keys, found):
            if written[key].encode() not in fetched.values:
                failures.append(f"{key} is lost: {fetched}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
