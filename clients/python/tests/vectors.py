"""The test vectors of the protocol, from the file that the Rust code is held to as well."""

from __future__ import annotations

from pathlib import Path

from dynakv.wire import FRAME_LENGTH_MAX, HEADER_BYTES, Message, frame_length, open_frame

PROTOCOL = Path(__file__).resolve().parents[3] / "protocol"

#: The id of all whole frames in the file.
REQUEST_ID = 0x0102030405060708

CONTEXT = bytes.fromhex("014261f65fe57f526f020a0a0a0a0a0a0a0a050b0b0b0b0b0b0b0bac02ec5f5615")
CLUSTER_ID = 0x00112233445566778899AABBCCDDEEFF
WRITE_ID = 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF


def golden() -> dict[str, bytes]:
    """Name to bytes."""
    vectors = {}
    for line in (PROTOCOL / "tests" / "golden.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, digits = line.split(" ")
            vectors[name] = bytes.fromhex(digits)
    return vectors


def documented() -> dict[str, bytes]:
    """The same, of those that PROTOCOL.md shows."""
    vectors = {}
    blocks = (PROTOCOL / "PROTOCOL.md").read_text().split("```golden ")[1:]
    for block in blocks:
        name, _, text = block.split("```")[0].partition("\n")
        digits = "".join(line.split("#")[0] for line in text.splitlines())
        vectors[name.strip()] = bytes.fromhex(digits)
    return vectors


def open_bytes(data: bytes) -> list[Message]:
    """The messages of one frame, as the connection opens it."""
    header, body = data[:HEADER_BYTES], data[HEADER_BYTES:]
    assert frame_length(header, FRAME_LENGTH_MAX) == len(body)
    return open_frame(header, body)


def table(heading: str, first_cell: str) -> list[list[str]]:
    """The rows of the table under a heading of PROTOCOL.md that begins with this cell."""
    section = (PROTOCOL / "PROTOCOL.md").read_text().split(f"\n{heading}\n")[1]
    _, _, rows = section.partition(f"\n| {first_cell} |")
    cells = [line.strip("|").split("|") for line in rows.split("\n\n")[0].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in cells]
