"""From a key to the nodes that own it (PROTOCOL.md, "From a key to its owners")."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .xxh3 import xxh3_64

VIRTUAL_NODES_PER_WEIGHT = 150
#: Above this the ring is not computed here: placing them takes Python seconds, and nodes pass requests
#: on anyhow.
VIRTUAL_NODES_MAX = 300_000

_SEGMENT_BITS = 16


@dataclass(frozen=True)
class Member:
    """A node of the ring."""

    node_id: str
    directory_id: int
    address: str
    weight: int
    zone: str


@dataclass(frozen=True)
class Ring:
    """Which nodes own which keys. It never changes; a newer ring has a higher version."""

    cluster_id: int
    cluster: str
    version: int
    #: Sealed by the first write: nobody joins any more.
    final: bool
    n: int
    w: int
    r: int
    members: tuple[Member, ...]
    # Filled in when it is first needed, and then the same for ever. Two threads that fill it in at
    # once do the same work twice, no more.
    _placed: list[tuple[list[int], list[int]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def at(self, addresses: Sequence[str]) -> Ring:
        """The same ring, its members at these addresses."""
        members = zip(self.members, addresses)
        return replace(
            self,
            members=tuple(replace(member, address=address) for member, address in members),
        )

    @property
    def total_virtual_nodes(self) -> int:
        """How many virtual nodes all members have together."""
        return sum(VIRTUAL_NODES_PER_WEIGHT * member.weight for member in self.members)

    @property
    def computable(self) -> bool:
        """Whether the ring is small enough to be computed here."""
        return self.total_virtual_nodes <= VIRTUAL_NODES_MAX

    def owners(self, key: bytes) -> tuple[Member, ...]:
        """The members that own a key, the preferred one first."""
        return self.owners_of_segment(segment(key))

    def owners_of_segment(self, number: int) -> tuple[Member, ...]:
        """The members that own a segment, the preferred one first."""
        positions, holders = self._virtual_nodes()
        start = bisect_left(positions, number << (64 - _SEGMENT_BITS))
        # A member without a zone counts as a zone of its own.
        zones = [(1, member.zone) if member.zone else (0, member.node_id) for member in self.members]
        first, others, seen = [], [], set()
        for holder in self._walk(holders, start):
            if zones[holder] in seen:
                others.append(holder)
            else:
                seen.add(zones[holder])
                first.append(holder)
        return tuple(self.members[holder] for holder in (first + others)[: self.n])

    def _walk(self, holders: Sequence[int], start: int) -> list[int]:
        """All members in the order in which their first virtual node is met."""
        order: list[int] = []
        seen = set()
        for step in range(len(holders)):
            holder = holders[(start + step) % len(holders)]
            if holder not in seen:
                seen.add(holder)
                order.append(holder)
                if len(order) == len(self.members):
                    break
        return order

    def _virtual_nodes(self) -> tuple[list[int], list[int]]:
        """Positions in ascending order, and the index of the member at each."""
        if not self._placed:
            # Members are in the order of their ids, so their indices settle ties as their ids do.
            nodes = sorted(
                (virtual_node(member.node_id, number), index)
                for index, member in enumerate(self.members)
                for number in range(VIRTUAL_NODES_PER_WEIGHT * member.weight)
            )
            self._placed.append(([at for at, _ in nodes], [holder for _, holder in nodes]))
        return self._placed[0]


def segment(key: bytes) -> int:
    """The segment that a key lies in."""
    return xxh3_64(key) >> (64 - _SEGMENT_BITS)


def virtual_node(node_id: str, number: int) -> int:
    """Where a virtual node lies."""
    return xxh3_64(node_id.encode() + b"\0" + number.to_bytes(4, "big"))
