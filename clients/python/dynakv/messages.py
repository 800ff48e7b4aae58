"""The messages of a client and their answers (PROTOCOL.md, "Handshake" and "Client messages")."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import ConflictError, DynakvError, MalformedError, error_of_code
from .ring import Member, Ring
from .wire import Bytes, Reader, sized, tagged, u8, u32, u64, u128

HELLO = 0x01
ERROR = 0x03
PING = 0x05
GET = 0x10
PUT = 0x11
DELETE = 0x12
STATS = 0x13
HEALTH = 0x14
STATUS = 0x15
RING = 0x16
GOAWAY = 0x06
WELCOME = 0x81

#: Set in the kind of an answer.
ANSWER = 0x80

_MAGIC = b"DYNAKV"
_ROLE_CLIENT = 1


# Requests.


def hello(cluster: str, cluster_id: int) -> bytes:
    """The first message; a cluster id of 0 is none."""
    pin = tagged(2, u128(cluster_id)) if cluster_id else b""
    knows_goaway = tagged(3, u8(1))
    return _MAGIC + bytes([1, 1, _ROLE_CLIENT]) + sized(cluster.encode()) + pin + knows_goaway


def get(timeout_ms: int, key: bytes, r: int | None, repair_first: bool) -> bytes:
    """Read a key."""
    tags = b""
    if r is not None:
        tags += tagged(1, u8(r))
    if repair_first:
        tags += tagged(4, u8(1))
    return u32(timeout_ms) + sized(key) + tags


def _write_tags(
    w: int | None, context: bytes | None, ttl_ms: int | None, sloppy: bool, again: bool
) -> bytes:
    tags = b""
    if w is not None:
        tags += tagged(1, u8(w))
    if context is not None:
        tags += tagged(2, context)
    if ttl_ms is not None:
        tags += tagged(3, u64(ttl_ms))
    if sloppy:
        tags += tagged(5, u8(1))
    if again:
        tags += tagged(6, u8(1))
    return tags


def put(
    timeout_ms: int,
    write_id: int,
    key: bytes,
    value: Bytes,
    w: int | None = None,
    context: bytes | None = None,
    ttl_ms: int | None = None,
    sloppy: bool = False,
    again: bool = False,
) -> bytes:
    """Store a value."""
    head = u32(timeout_ms) + u128(write_id) + sized(key)
    return head + sized(value) + _write_tags(w, context, ttl_ms, sloppy, again)


def delete(
    timeout_ms: int,
    write_id: int,
    key: bytes,
    w: int | None = None,
    context: bytes | None = None,
    sloppy: bool = False,
    again: bool = False,
) -> bytes:
    """Delete a key."""
    head = u32(timeout_ms) + u128(write_id) + sized(key)
    return head + _write_tags(w, context, None, sloppy, again)


# Answers.


@dataclass(frozen=True)
class Welcome:
    """What a node says of itself when it takes a connection."""

    version: int
    node_id: str
    generation: int
    nonce: int
    cluster: str
    cluster_id: int
    ring_version: int


@dataclass(frozen=True)
class Sibling:
    """One of the values of a key."""

    value: bytes
    #: With the counter, the name of the write.
    actor: int
    counter: int
    #: When it was written, by its coordinator's clock, in milliseconds since 1970.
    timestamp_ms: int


@dataclass(frozen=True)
class Fetched:
    """What a read found."""

    #: None: the key is absent or deleted. One: its value. More: concurrent writes.
    siblings: tuple[Sibling, ...]
    #: Stands for all that this read has seen. Hand it to the write that answers this read.
    context: bytes
    #: How many replicas this answer rests on.
    effective_r: int

    @property
    def value(self) -> bytes | None:
        """The value, or None when the key is absent; raises ConflictError when it has several."""
        if len(self.siblings) > 1:
            raise ConflictError(self.siblings, self.context)
        return self.siblings[0].value if self.siblings else None

    @property
    def values(self) -> tuple[bytes, ...]:
        """The values of all siblings."""
        return tuple(sibling.value for sibling in self.siblings)


@dataclass(frozen=True)
class Written:
    """A write that has met its quorum, on disk."""

    #: Enough to write the key again without a read in between.
    context: bytes
    #: How many replicas were needed.
    effective_w: int
    #: Stand-ins counted: the owners alone would not have been enough.
    sloppy: bool
    #: How many concurrent values a write without a context replaced unseen; 0 without a conflict.
    replaced: int = 0


@dataclass(frozen=True)
class Stats:
    """Counts of one node."""

    node_id: str
    address: str
    total_keys: int
    total_versions: int
    conflict_keys: int
    n: int
    w: int
    r: int
    ring_version: int
    total_nodes: int
    total_virtual_nodes: int
    virtual_nodes_per_node: int
    known_nodes: int
    alive_nodes: int


@dataclass(frozen=True)
class Health:
    """Whether a node can coordinate requests."""

    node_id: str
    ready: bool
    #: Why not, for people.
    reason: str


@dataclass(frozen=True)
class MemberStatus:
    """A member in the eyes of the node that was asked."""

    node_id: str
    address: str
    #: ``alive``, ``suspected``, ``dead``, or ``unknown`` for a state this client does not know.
    state: str
    state_age_ms: int
    generation: int
    zone: str
    keys: int
    disk_bytes: int
    #: Its share of primary ownership, from 0 to 1.
    owns: float
    #: The version of dynakv it runs; empty while unknown.
    software: str
    #: In how many of the 65,536 segments it lost data and has not got them back.
    rebuilding_segments: int


@dataclass(frozen=True)
class Status:
    """The members of the cluster in the eyes of one node."""

    node_id: str
    cluster: str
    cluster_id: int
    ring_version: int
    n: int
    w: int
    r: int
    members: tuple[MemberStatus, ...]


_STATES = {1: "alive", 2: "suspected", 3: "dead"}


def read_welcome(body: Bytes) -> Welcome:
    """The answer to a hello."""
    fields = Reader(body)
    welcome = Welcome(
        version=fields.u8(),
        node_id=fields.node_id(),
        generation=fields.u64(),
        nonce=fields.u64(),
        cluster=fields.string(),
        cluster_id=fields.u128(),
        ring_version=fields.u64(),
    )
    fields.tags()
    return welcome


def read_goaway(body: Bytes) -> tuple[int, str]:
    """The id of the last request that the node has taken from the connection, and why it takes no more."""
    fields = Reader(body)
    last, _drain_ms, reason = fields.u64(), fields.u32(), fields.string()
    fields.tags()
    return last, reason


def read_error(body: Bytes) -> DynakvError:
    """An error, as the exception to be raised."""
    fields = Reader(body)
    code = fields.u16()
    maybe_applied, retryable = fields.boolean(), fields.boolean()
    message = fields.string()
    tags = fields.tags()
    return error_of_code(
        code,
        message,
        maybe_applied=maybe_applied,
        retryable=retryable,
        needed=tags[1].u8() if 1 in tags else None,
        got=tags[2].u8() if 2 in tags else None,
        ring_version=tags[3].u64() if 3 in tags else None,
    )


def read_nothing(body: Bytes) -> None:
    """An answer without fields."""
    Reader(body).tags()


def read_fetched(body: Bytes) -> Fetched:
    """The answer to a read."""
    fields = Reader(body)
    effective_r, context = fields.u8(), fields.blob()

    def sibling() -> Sibling:
        actor, counter, timestamp_ms = fields.u64(), fields.varint(), fields.u64()
        if counter == 0:
            raise MalformedError("the counter of a write is at least 1")
        return Sibling(fields.blob(), actor, counter, timestamp_ms)

    siblings = fields.items(sibling, 18)
    fields.tags()
    return Fetched(tuple(siblings), context, effective_r)


def read_written(body: Bytes) -> Written:
    """The answer to a put or a delete."""
    fields = Reader(body)
    effective_w, sloppy = fields.u8(), fields.boolean()
    context, replaced = fields.blob(), fields.tags().get(3)
    return Written(context, effective_w, sloppy, replaced.u64() if replaced else 0)


def read_stats(body: Bytes) -> Stats:
    """The answer to a request for counts."""
    fields = Reader(body)
    stats = Stats(
        node_id=fields.node_id(),
        address=fields.string(),
        total_keys=fields.u64(),
        total_versions=fields.u64(),
        conflict_keys=fields.u64(),
        n=fields.u8(),
        w=fields.u8(),
        r=fields.u8(),
        ring_version=fields.u64(),
        total_nodes=fields.u32(),
        total_virtual_nodes=fields.u32(),
        virtual_nodes_per_node=fields.u32(),
        known_nodes=fields.u32(),
        alive_nodes=fields.u32(),
    )
    fields.tags()
    return stats


def read_health(body: Bytes) -> Health:
    """The answer to a request for health."""
    fields = Reader(body)
    health = Health(fields.node_id(), fields.boolean(), fields.string())
    fields.tags()
    return health


def read_status(body: Bytes) -> Status:
    """The answer to a request for the members."""
    fields = Reader(body)
    node_id, cluster, cluster_id = fields.node_id(), fields.string(), fields.u128()
    ring_version, n, w, r = fields.u64(), fields.u8(), fields.u8(), fields.u8()

    def member() -> MemberStatus:
        item = fields.counted()
        return MemberStatus(
            node_id=item.node_id(),
            address=item.string(),
            state=_STATES.get(item.u8(), "unknown"),
            state_age_ms=item.u64(),
            generation=item.u64(),
            zone=item.string(),
            keys=item.u64(),
            disk_bytes=item.u64(),
            owns=item.u16() / 10_000,
            software=item.string(),
            rebuilding_segments=item.u32(),
        )

    members = fields.items(member, 1)
    fields.tags()
    return Status(node_id, cluster, cluster_id, ring_version, n, w, r, tuple(members))


def read_ring(body: Bytes) -> Ring:
    """The answer to a request for the ring, with the addresses of now."""
    fields = Reader(body)
    ring = read_ring_document(fields.counted())
    addresses = fields.items(fields.string, 1)
    fields.tags()
    if len(addresses) != len(ring.members):
        raise MalformedError(f"{len(addresses)} addresses for {len(ring.members)} members")
    return ring.at(addresses)


_OPEN, _FINAL, _WRITE_BOTH, _READ_NEW = range(4)


def read_ring_document(fields: Reader) -> Ring:
    """A ring document, to the end of its bytes."""
    cluster_id, cluster, version = fields.u128(), fields.string(), fields.u64()
    step = fields.u8()
    if step > _READ_NEW:
        raise MalformedError(f"the ring is in a step that this client does not know: {step}")
    changes = step in (_WRITE_BOTH, _READ_NEW)
    stakes: list[tuple[int, str]] = []
    if changes:
        fields.u64()  # The version that began the change.
        stakes = fields.items(lambda: (fields.u16(), fields.string()), 3)
    n, w, r = fields.u8(), fields.u8(), fields.u8()

    def member() -> Member:
        return Member(
            node_id=fields.node_id(),
            directory_id=fields.u64(),
            address=fields.string(),
            weight=fields.u16(),
            zone=fields.string(),
        )

    members = fields.items(member, 14)
    fields.tags()
    ids = [member.node_id for member in members]
    sound = (
        cluster_id != 0
        and version >= 1
        and 1 <= n <= 32
        and 1 <= w <= n
        and 1 <= r <= n
        and members
        and (not changes or len(stakes) == len(members))
        and all(0 <= member.weight <= 100 for member in members)
        and all(0 <= weight <= 100 for weight, _ in stakes)
        and (changes or all(member.weight for member in members))
        and all(before < after for before, after in zip(ids, ids[1:]))
    )
    if not sound:
        raise MalformedError("the ring document breaks its own rules")
    if step == _READ_NEW:
        # Whoever gained a copy has it: the owners to ask are those to be.
        pairs = zip(members, stakes)
        members = [replace(member, weight=weight, zone=zone) for member, (weight, zone) in pairs]
    return Ring(cluster_id, cluster, version, step != _OPEN, n, w, r, tuple(members))
