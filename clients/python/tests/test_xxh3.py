"""The hash, against vectors of the reference implementation."""

import unittest

from dynakv.xxh3 import xxh3_64

#: The hash of the first LENGTH bytes of the row 3, 10, 17, ... (mod 256), by xxHash 0.8 of its author.
#: The lengths are the edges of each of its ways to work.
VECTORS = {
    0: 0x2D06800538D394C2,
    1: 0x13E608BC156DEFED,
    3: 0xA9088DDA485B481C,
    4: 0x6D9253B16C8B1ED3,
    8: 0x60539DB630471163,
    9: 0xFEFF668361D723A8,
    16: 0xB8C859B0F030B585,
    17: 0x714A04408E79B80F,
    32: 0x19FF4EE1D6BA1A55,
    33: 0x3E44983AD21679C8,
    64: 0x287EB1FA9E4BE2C1,
    65: 0x829218DE4D798646,
    96: 0xF084E7CFBC624743,
    97: 0x1DAA83271A8E7B7C,
    128: 0x67425A03650261BF,
    129: 0xC664BF3311C6ABC4,
    240: 0x64556DC6B462A6CF,
    241: 0x8BEADD3A8874FE17,
    256: 0x3C38817F6D79C0DA,
    1024: 0x9B81661C641C72B1,
    1025: 0x806C2072ED713576,
    4096: 0xD7428746842BE37E,
}


class Xxh3Test(unittest.TestCase):
    def test_every_length_class_is_that_of_the_reference(self) -> None:
        data = bytes((7 * number + 3) & 0xFF for number in range(4096))
        for length, expected in VECTORS.items():
            self.assertEqual(xxh3_64(data[:length]), expected, f"{length} bytes")
