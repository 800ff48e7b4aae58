"""XXH3 with 64 bits and seed 0, for inputs of any length.

It places keys and virtual nodes on the ring (PROTOCOL.md, "From a key to its owners"). Keys are short, so
plain Python is fast enough: a few microseconds for a usual key.
"""

from __future__ import annotations

from struct import Struct

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)

_MASK = 0xFFFFFFFFFFFFFFFF
_P32_1 = 0x9E3779B1
_P32_2 = 0x85EBCA77
_P32_3 = 0xC2B2AE3D
_P64_1 = 0x9E3779B185EBCA87
_P64_2 = 0xC2B2AE3D27D4EB4F
_P64_3 = 0x165667B19E3779F9
_P64_4 = 0x85EBCA77C2B2AE63
_P64_5 = 0x27D4EB2F165667C5
_MX1 = 0x165667919E3779F9
_MX2 = 0x9FB21C651E98DF25

_u32 = Struct("<I").unpack_from
_u64 = Struct("<Q").unpack_from
_u64x2 = Struct("<2Q").unpack_from
_u64x8 = Struct("<8Q").unpack_from

_STRIPE = 64
_STRIPES_PER_BLOCK = 16
_BLOCK = _STRIPE * _STRIPES_PER_BLOCK


def xxh3_64(data: bytes) -> int:
    """The hash of these bytes, as an unsigned integer of 64 bits."""
    length = len(data)
    if length <= 16:
        return _up_to_16(data, length)
    if length <= 128:
        return _up_to_128(data, length)
    if length <= 240:
        return _up_to_240(data, length)
    return _long(data, length)


def _fold(a: int, b: int) -> int:
    product = a * b
    return (product & _MASK) ^ (product >> 64)


def _avalanche(h: int) -> int:
    h ^= h >> 37
    h = h * _MX1 & _MASK
    return h ^ (h >> 32)


def _avalanche_xxh64(h: int) -> int:
    h ^= h >> 33
    h = h * _P64_2 & _MASK
    h ^= h >> 29
    h = h * _P64_3 & _MASK
    return h ^ (h >> 32)


def _rotate(h: int, bits: int) -> int:
    return (h << bits | h >> (64 - bits)) & _MASK


def _mix(data: bytes, offset: int, secret: int) -> int:
    low, high = _u64x2(data, offset)
    key_low, key_high = _u64x2(_SECRET, secret)
    return _fold(low ^ key_low, high ^ key_high)


def _up_to_16(data: bytes, length: int) -> int:
    if length > 8:
        flip_low = _u64(_SECRET, 24)[0] ^ _u64(_SECRET, 32)[0]
        flip_high = _u64(_SECRET, 40)[0] ^ _u64(_SECRET, 48)[0]
        low = _u64(data, 0)[0] ^ flip_low
        high = _u64(data, length - 8)[0] ^ flip_high
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche((length + swapped + high + _fold(low, high)) & _MASK)
    if length >= 4:
        first, last = _u32(data, 0)[0], _u32(data, length - 4)[0]
        h: int = (last + (first << 32)) ^ _u64(_SECRET, 8)[0] ^ _u64(_SECRET, 16)[0]
        h ^= _rotate(h, 49) ^ _rotate(h, 24)
        h = h * _MX2 & _MASK
        h ^= (h >> 35) + length
        h = h * _MX2 & _MASK
        return h ^ (h >> 28)
    if length > 0:
        combined = data[0] << 16 | data[length >> 1] << 24 | data[length - 1] | length << 8
        return _avalanche_xxh64(combined ^ _u32(_SECRET, 0)[0] ^ _u32(_SECRET, 4)[0])
    return _avalanche_xxh64(_u64(_SECRET, 56)[0] ^ _u64(_SECRET, 64)[0])


def _up_to_128(data: bytes, length: int) -> int:
    h = length * _P64_1
    for step in range((length - 1) // 32, -1, -1):
        h += _mix(data, 16 * step, 32 * step)
        h += _mix(data, length - 16 * (step + 1), 32 * step + 16)
    return _avalanche(h & _MASK)


def _up_to_240(data: bytes, length: int) -> int:
    h = length * _P64_1
    for step in range(8):
        h += _mix(data, 16 * step, 16 * step)
    h = _avalanche(h & _MASK)
    for step in range(8, length // 16):
        h += _mix(data, 16 * step, 16 * (step - 8) + 3)
    h += _mix(data, length - 16, 136 - 17)
    return _avalanche(h & _MASK)


def _long(data: bytes, length: int) -> int:
    lanes = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]
    last_secret = len(_SECRET) - _STRIPE
    blocks = (length - 1) // _BLOCK
    for block in range(blocks):
        for stripe in range(_STRIPES_PER_BLOCK):
            _accumulate(lanes, data, block * _BLOCK + stripe * _STRIPE, 8 * stripe)
        keys = _u64x8(_SECRET, last_secret)
        for lane in range(8):
            h = lanes[lane]
            lanes[lane] = (h ^ (h >> 47) ^ keys[lane]) * _P32_1 & _MASK
    start = blocks * _BLOCK
    for stripe in range((length - 1 - start) // _STRIPE):
        _accumulate(lanes, data, start + stripe * _STRIPE, 8 * stripe)
    _accumulate(lanes, data, length - _STRIPE, last_secret - 7)

    h = length * _P64_1
    for pair in range(4):
        low, high = _u64x2(_SECRET, 11 + 16 * pair)
        h += _fold(lanes[2 * pair] ^ low, lanes[2 * pair + 1] ^ high)
    return _avalanche(h & _MASK)


def _accumulate(lanes: list[int], data: bytes, offset: int, secret: int) -> None:
    words = _u64x8(data, offset)
    keys = _u64x8(_SECRET, secret)
    for lane in range(8):
        word = words[lane]
        key = word ^ keys[lane]
        lanes[lane ^ 1] = (lanes[lane ^ 1] + word) & _MASK
        lanes[lane] = (lanes[lane] + (key & 0xFFFFFFFF) * (key >> 32)) & _MASK
