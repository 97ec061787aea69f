"""The 128-bit FNV-1 hash, by which DVID names blobs, at numpy's speed.

The definition takes a byte at a time: multiply by the prime, then XOR the byte. Two facts make it fast. The XOR touches
only the lowest 8 bits, and these follow from themselves alone: their bits can be found one after the other, each as a
running XOR over all bytes. Once they are known, every XOR is the addition of a known small number, so the hash is a
polynomial in the prime. Source: http://www.isthe.com/chongo/tech/comp/fnv
"""

from functools import cache

import numpy as np

_PRIME = (1 << 88) + 0x13B
_BASIS = 0x6C62272E07BB014262B821756295C58D
_MASK = (1 << 128) - 1
_LOW_PRIME = np.uint8(_PRIME & 0xFF)
_LIMB = 32
_SLICE = 1 << 16  # fits the processor's cache
_BLOCK = 4096  # 9-bit numbers × 32-bit limbs × 2¹² terms stay below 2⁵³: sums of doubles are exact


@cache
def _powers() -> np.ndarray:
    """Return the 32-bit limbs of prime⁰ … prime⁴⁰⁹⁵, the highest power first, shape (4096, 4)."""
    power, rows = 1, []
    for _ in range(_BLOCK):
        rows.append([power >> shift & 0xFFFFFFFF for shift in range(0, 128, _LIMB)])
        power = power * _PRIME & _MASK
    return np.array(rows[::-1], np.float64)


class Fnv128:
    """The hash of bytes that come piece by piece."""

    def __init__(self) -> None:
        self._state = _BASIS
        self._limbs = _powers()
        self._step = pow(_PRIME, _BLOCK, 1 << 128)

    def update(self, piece: bytes | memoryview) -> None:
        """Take in a piece."""
        data = np.frombuffer(piece, np.uint8)
        for start in range(0, len(data), _SLICE):
            self._take(data[start : start + _SLICE])

    def _take(self, data: np.ndarray) -> None:
        added = _added(data, self._state & 0xFF)
        whole = len(data) // _BLOCK * _BLOCK
        for row in (added[:whole].reshape(-1, _BLOCK) @ self._limbs).tolist():
            self._state = (self._state * self._step + _number(row)) & _MASK
        rest = len(data) - whole
        if rest:
            row = (added[whole:] @ self._limbs[_BLOCK - rest :]).tolist()
            self._state = (self._state * pow(_PRIME, rest, 1 << 128) + _number(row)) & _MASK

    def digest(self) -> bytes:
        """Return the 16 bytes of the hash, the highest first."""
        return self._state.to_bytes(16, "big")


def _number(limbs: list[float]) -> int:
    return sum(int(limb) << _LIMB * index for index, limb in enumerate(limbs))


def _added(data: np.ndarray, low: int) -> np.ndarray:
    """Return what each XOR adds to the hash, given the lowest byte of the hash before."""
    before = np.zeros(len(data), np.uint8)  # the lowest byte before each step, found bit by bit from below
    before[0] = low
    for bit in range(8):
        # right up to this bit, whose own share is still missing behind the first byte
        product = before * _LOW_PRIME
        product ^= data
        product >>= np.uint8(bit)
        product &= np.uint8(1)
        carried = _running_xor(product[:-1])
        carried <<= np.uint8(bit)
        before[1:] |= carried
    product = before * _LOW_PRIME
    added: np.ndarray = np.subtract(product ^ data, product, dtype=np.int16)
    return added.astype(np.float64)


def _running_xor(bits: np.ndarray) -> np.ndarray:
    """Return the XOR of all bits up to each one: on one long integer, by doubling steps."""
    count = len(bits)
    number = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
    step = 1
    while step < count:
        number ^= number << step
        step *= 2
    size = -(-count // 8)
    number &= (1 << 8 * size) - 1
    packed = np.frombuffer(number.to_bytes(size, "little"), np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little")
