"""From keys to owners, against what the nodes compute."""

from __future__ import annotations

import unittest

from dynakv import messages
from dynakv.errors import MalformedError
from dynakv.ring import Member, Ring, segment, virtual_node
from dynakv.wire import Reader
from dynakv.xxh3 import xxh3_64

from .vectors import golden, table

SEGMENTS = (0x0000, 0x0001, 0x1234, 0x7FFF, 0x8000, 0xABCD, 0xE7FE, 0xFFFF)


def ring(
    count: int,
    n: int,
    zones: tuple[str, ...] = ("",),
    weights: dict[int, int] | None = None,
) -> Ring:
    """Members node-1, node-2, ..., with zones in turn."""
    members = [
        Member(f"node-{at + 1}", 1, "", (weights or {}).get(at + 1, 1), zones[at % len(zones)])
        for at in range(count)
    ]
    return Ring(1, "test", 7, True, n, 1, 1, tuple(members))


#: Owners of SEGMENTS by their numbers, as the nodes' own code places them.
OWNERS = {
    "three members": (ring(3, 3), "231 231 321 312 312 321 231 231"),
    "fewer zones than copies": (
        ring(9, 4, ("a", "b")),
        "2748 2748 4932 7459 7459 4983 5847 2748",
    ),
    "more zones than copies": (
        ring(9, 3, ("a", "b", "c", "d")),
        "247 247 493 754 754 493 587 247",
    ),
    "some without a zone": (
        ring(5, 3, ("a", "a", "", "", "")),
        "245 245 432 543 543 432 542 245",
    ),
    "a weight": (ring(5, 3, weights={2: 3}), "245 245 432 542 542 432 254 245"),
}


class RingTest(unittest.TestCase):
    def test_positions(self) -> None:
        vectors = golden()
        position = int.from_bytes(vectors["position.key"], "big")
        self.assertEqual(xxh3_64(b"user:123"), position)
        self.assertEqual(segment(b"user:123"), position >> 48)
        for number in (0, 149):
            expected = int.from_bytes(vectors[f"position.virtual-node-{number}"], "big")
            self.assertEqual(virtual_node("node-1", number), expected)

    def test_owners(self) -> None:
        for case, (placed, owners) in OWNERS.items():
            for number, expected in zip(SEGMENTS, owners.split()):
                ids = "".join(m.node_id[-1] for m in placed.owners_of_segment(number))
                self.assertEqual(ids, expected, f"{case}, segment {number:#06x}")

    def test_a_segment_belongs_to_whom_its_start_belongs_to(self) -> None:
        # Virtual node 0 of node-1 lies early in this segment: after its start, before most of its keys.
        placed = ring(3, 3)
        self.assertEqual(virtual_node("node-1", 0) >> 44, 0x85361)
        self.assertEqual(placed.owners_of_segment(0x8536)[0].node_id, "node-1")
        self.assertEqual(placed.owners_of_segment(0x8537)[0].node_id, "node-2")

    def test_owners_in_the_page(self) -> None:
        zones = {"none": ("",), "a b c d": ("a", "b", "c", "d"), "a b": ("a", "b")}
        zones["a a, then none"] = ("a", "a", "", "", "")
        rows = table("### From a key to its owners", "Members")
        self.assertEqual(len(rows), 4)
        for members, n, zone, *owners in rows:
            placed = ring(int(members), int(n), zones[zone])
            for number, expected in zip((0x0000, 0x1234, 0x7FFF, 0xABCD, 0xE7FE), owners):
                ids = " ".join(m.node_id[-1] for m in placed.owners_of_segment(number))
                self.assertEqual(ids, expected, f"{zone}, segment {number:#06x}")

    def test_fewer_members_than_copies_own_everything(self) -> None:
        for count in (1, 2, 3):
            for number in SEGMENTS:
                self.assertEqual(len(ring(count, 3).owners_of_segment(number)), count)

    def test_a_huge_ring_is_left_to_the_nodes(self) -> None:
        self.assertTrue(ring(1024, 3).computable)
        self.assertFalse(ring(21, 3, weights={at: 100 for at in range(1, 22)}).computable)

    def test_of_a_ring_that_changes_those_are_asked_that_are_read(self) -> None:
        changing = bytearray(golden()["ring-document.changing"])
        step = 16 + 7 + 8
        self.assertEqual(changing[step], 3)
        read = messages.read_ring_document(Reader(bytes(changing)))
        self.assertEqual([member.weight for member in read.members], [2, 1, 0, 1])
        changing[step] = 2
        written = messages.read_ring_document(Reader(bytes(changing)))
        self.assertEqual([member.weight for member in written.members], [1, 1, 1, 0])
        self.assertTrue(read.final and written.final)
        for number in SEGMENTS:
            for placed, gone in ((read, "node-3"), (written, "node-4")):
                owners = placed.owners_of_segment(number)
                self.assertEqual(len(owners), 3)
                self.assertNotIn(gone, [member.node_id for member in owners])

    def test_documents_that_break_their_rules(self) -> None:
        sound = golden()["ring-document"]
        read = messages.read_ring_document(Reader(sound))
        self.assertEqual([member.zone for member in read.members], ["a", "b", ""])
        at = 16 + 7 + 8  # The step; n, w and r follow.
        for offset, value in ((at, 4), (at + 1, 0), (at + 1, 33), (at + 2, 4), (at + 3, 0)):
            damaged = bytearray(sound)
            damaged[offset] = value
            with self.assertRaises(MalformedError):
                messages.read_ring_document(Reader(bytes(damaged)))
        swapped = sound.replace(b"node-1", b"node-9")
        with self.assertRaises(MalformedError):
            messages.read_ring_document(Reader(swapped))
