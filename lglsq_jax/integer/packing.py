"""Codes of 2 to 8 bits in bytes, without gaps, and whole numbers in as few bytes as hold them."""

import numpy as np


def pack(codes: np.ndarray, bits: int, *, signed: bool) -> np.ndarray:
    """Returns the codes as a stream of ``bits``-wide fields in uint8: first code first, least significant bit first.

    Signed codes are stored with ``2**(bits - 1)`` added. The last byte is filled with zeros.
    """
    fields = codes.astype(np.int16).ravel() + (1 << (bits - 1) if signed else 0)
    if fields.size and not (0 <= fields.min() and fields.max() < 1 << bits):
        raise ValueError(f"codes must fit {bits} bits, got values from {codes.min()} to {codes.max()}")
    planes = np.unpackbits(fields.astype(np.uint8)[:, None], axis=1, bitorder="little")[:, :bits]
    return np.packbits(planes.ravel(), bitorder="little")


def unpack(stream: np.ndarray, bits: int, shape: tuple[int, ...], *, signed: bool) -> np.ndarray:
    """Returns the codes that ``pack`` stored: int8, or uint8 where they are unsigned.

    Raises:
        ValueError: the stream has another length than the shape needs.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if stream.dtype != np.uint8 or stream.shape != (packed_size(count, bits),):
        raise ValueError(
            f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes, got {stream.dtype} {stream.shape}"
        )
    planes = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits)
    fields = np.packbits(planes, axis=1, bitorder="little")[:, 0].astype(np.int16)
    codes = fields - (1 << (bits - 1) if signed else 0)
    return codes.astype(np.int8 if signed else np.uint8).reshape(shape)


def packed_size(count: int, bits: int) -> int:
    """Returns how many bytes ``count`` codes of ``bits`` bits take."""
    return (count * bits + 7) // 8


def narrowed(numbers: np.ndarray) -> np.ndarray:
    """Returns signed whole numbers as int8, int16 or int32, the first that holds them all; others as they are."""
    if not np.issubdtype(numbers.dtype, np.signedinteger) or not numbers.size:
        return numbers
    least, most = int(numbers.min()), int(numbers.max())
    fitting = (dtype for dtype in (np.int8, np.int16) if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max)
    return numbers.astype(next(fitting, numbers.dtype))
