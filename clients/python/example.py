#!/usr/bin/env python3
"""A walk through the dynakv client: python3 example.py [HOST:PORT], 127.0.0.1:8080 by default."""

from __future__ import annotations

import sys

from dynakv import BadRequestError, Client, ConflictError, DynakvError, UnreachableError


def main() -> int:
    """Runs the example; gives its exit code."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080"
    try:
        with Client([address], timeout=10.0) as client:
            node = client.health()
            if not node.ready:
                print(f"{node.node_id} is not ready: {node.reason}", file=sys.stderr)
                return 1
            print(f"Connected to {node.node_id} at {address}.")
            walk(client)
            return 0
    except ValueError as error:
        print(error, file=sys.stderr)
    except UnreachableError as error:
        print(f"{error}\nStart a cluster first: make run", file=sys.stderr)
    except DynakvError as error:
        print(f"Failed: {error}", file=sys.stderr)
    return 1


def walk(client: Client) -> None:
    """Everything once. Each part leaves its keys as it wants to find them."""
    print("\n-- Set, get, delete")
    client.put("example:greeting", "hello")
    print(f"The greeting is {text(client.get('example:greeting').value)!r}.")
    client.delete("example:greeting")
    print(f"After deleting it, the greeting is {client.get('example:greeting').value!r}.")

    print("\n-- Two writers who do not know of each other")
    client.put("example:cart", "")
    seen = client.get("example:cart")
    client.put("example:cart", "milk", context=seen.context)
    client.put("example:cart", "bread", context=seen.context)
    both = client.get("example:cart")
    try:
        print(f"The cart is {text(both.value)!r}.")
    except ConflictError:
        items = sorted(text(value) for value in both.values)
        print(f"Both had read the same cart, so both writes are kept: {items}.")
        client.put("example:cart", ", ".join(items), context=both.context)
    merged = client.get("example:cart")
    print(f"Merged with the context of that read: {text(merged.value)!r}.")

    print("\n-- Many at once")
    users = {f"example:user:{number}": f"user {number}" for number in range(500)}
    client.put_many(users)
    found = client.get_many(users)
    same = [text(each.value) for each in found] == list(users.values())
    print(f"Wrote and read {len(found)} users in batches; {'all' if same else 'not all'} as written.")

    print("\n-- Many in flight, each waited for when it is needed")
    with client.pipeline() as pipeline:
        answers = {key: pipeline.get(key) for key in users}
    last = list(users)[-1]
    print(f"{len(answers)} answers came; the last user is {text(answers[last].result().value)!r}.")

    print("\n-- An error")
    try:
        client.put("example:greeting", "hello", context=merged.context)
    except BadRequestError as error:
        print(f"A context belongs to its key. Used with another one: {error}.")

    print("\n-- The cluster")
    status = client.status()
    alive = sum(member.state == "alive" for member in status.members)
    owners = ", ".join(member.node_id for member in client.ring().owners(b"example:cart"))
    print(f"{alive} of {len(status.members)} members are alive; the cart lies on {owners}.")


def text(value: bytes | None) -> str:
    """A value that is known to be text."""
    return "" if value is None else value.decode()


if __name__ == "__main__":
    sys.exit(main())
