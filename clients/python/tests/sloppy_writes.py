"""Writes sloppily while owners are down, or reads what was written so: used while nodes are killed.

``sloppy_writes.py write HOST:PORT`` and, when the owners are back, ``sloppy_writes.py read HOST:PORT``. The
exit code is 0 when all is as it should be.
"""

from __future__ import annotations

import sys

from dynakv import Client, QuorumUnavailableError

KEYS = [f"sloppy:{number}" for number in range(40)]


def write(client: Client) -> None:
    """Everything is taken, some with stand-ins, some by the owners alone."""
    by_name = {}
    for key, written in zip(KEYS, client.put_many({key: key for key in KEYS}, sloppy=True)):
        by_name[key] = written.sloppy
    kept = [key for key in KEYS if by_name[key]]
    assert kept and len(kept) < len(KEYS), by_name
    # A strict write counts nobody but owners.
    try:
        client.put(kept[0], "strict", timeout=2.0)
    except QuorumUnavailableError as error:
        assert not error.maybe_applied, error
    else:
        raise AssertionError(f"{kept[0]} was taken strictly")
    # A delete can be sloppy as well.
    assert client.delete(kept[0], sloppy=True).sloppy
    assert client.put(kept[0], kept[0], sloppy=True).sloppy


def read(client: Client) -> None:
    """Everything is there."""
    values = [fetched.value for fetched in client.get_many(KEYS)]
    assert values == [key.encode() for key in KEYS], values


def main() -> None:
    """Does what the first argument says."""
    with Client([sys.argv[2]], timeout=30.0) as client:
        {"write": write, "read": read}[sys.argv[1]](client)


if __name__ == "__main__":
    main()
