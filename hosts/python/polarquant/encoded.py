# SPDX-License-Identifier: Apache-2.0
"""Encoded rows as an object: pages, and what is needed to read them.

As bytes: 8 bytes "PQROWS", 0, version (1); u32 length of the description; the description, JSON
(`scheme`, `role`, `head_dim`, `page_tokens`, `shape`, `map`); zeros up to a multiple of 64; the
pages of each leading index after another (FORMAT.md); u32 CRC-32 of all bytes before it. Numbers
are little endian. `map` is the CRC-32 of the balance scales and the dense map the keys were weighed
with, f32 each, or null.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any

import numpy as np

from polarquant import _core
from polarquant.errors import CorruptionError, Error, FormatError

_MAGIC = b"PQROWS\0"
_VERSION = 1
_FIELDS = {"scheme": str, "role": str, "head_dim": int, "page_tokens": int, "shape": list}


class Encoded:
    """Rows of keys or values as `Codec.encode` leaves them. Not to be changed.

    Attributes:
        scheme, role, head_dim, page_tokens: the codec's.
        shape: of the rows, (..., n, head_dim).
        pages: uint8 [number of pages, page_bytes], read-only. The n rows of each leading index fill
            ceil(n / page_tokens) pages, one leading index after another.
        map: CRC-32 of what keys were weighed with, or None.

    It can be pickled and copied, and `tobytes` and `frombytes` are each other's inverse.
    """

    __slots__ = ("head_dim", "map", "page_tokens", "pages", "role", "scheme", "shape")

    def __init__(
        self,
        *,
        scheme: str,
        role: str,
        head_dim: int,
        page_tokens: int,
        shape: tuple[int, ...],
        pages: np.ndarray,
        map: int | None = None,
    ) -> None:
        self.scheme = scheme
        self.role = role
        self.head_dim = head_dim
        self.page_tokens = page_tokens
        self.shape = tuple(int(length) for length in shape)
        pages.flags.writeable = False
        self.pages = pages
        self.map = map

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return self.pages.nbytes

    @property
    def bits_per_value(self) -> float:
        """Bits a value really takes here: a page that is not full takes a whole page."""
        values = math.prod(self.shape)
        return 8 * self.nbytes / values if values else math.nan

    def __len__(self) -> int:
        """Rows of one leading index: n."""
        return self.shape[-2]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Encoded):
            return NotImplemented
        return self._description() == other._description() and np.array_equal(
            self.pages, other.pages
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"Encoded({self.scheme}, {self.role}, shape={list(self.shape)}, "
            f"nbytes={self.nbytes}, bits_per_value={self.bits_per_value:.3f})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoded.frombytes, (self.tobytes(),)

    def _description(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme,
            "role": self.role,
            "head_dim": self.head_dim,
            "page_tokens": self.page_tokens,
            "shape": list(self.shape),
            "map": self.map,
        }

    def tobytes(self) -> bytes:
        """Everything, in one piece; the same rows and codec always give the same bytes."""
        text = json.dumps(self._description(), separators=(",", ":")).encode()
        head = _MAGIC + bytes([_VERSION]) + struct.pack("<I", len(text)) + text
        head += bytes(-len(head) % 64)
        crc = zlib.crc32(self.pages, zlib.crc32(head))
        return b"".join((head, self.pages, struct.pack("<I", crc)))

    @classmethod
    def frombytes(cls, data: bytes | bytearray | memoryview) -> Encoded:
        """The inverse of `tobytes`; the bytes are copied.

        FormatError if these are no encoded rows, or of a version to come; CorruptionError if they
        were cut short or changed.
        """
        data = memoryview(data).cast("B")
        if bytes(data[: len(_MAGIC)]) != _MAGIC:
            raise FormatError(
                f"the bytes begin with {bytes(data[:8])!r}: encoded rows begin with "
                f"{_MAGIC + bytes([_VERSION])!r}"
            )
        if len(data) > len(_MAGIC) and data[len(_MAGIC)] != _VERSION:
            raise FormatError(
                f"the encoded rows have version {data[len(_MAGIC)]}, this polarquant reads "
                f"{_VERSION}; install the one that wrote them"
            )
        crc = zlib.crc32(data[:-4])
        if len(data) < 16 or bytes(data[-4:]) != struct.pack("<I", crc):
            raise CorruptionError(
                f"the checksum of these {len(data)} bytes is wrong: they were cut short or changed "
                "after they were written"
            )
        (length,) = struct.unpack("<I", data[8:12])
        try:
            fields = json.loads(bytes(data[12 : 12 + length]))
            for name, kind in _FIELDS.items():
                if not isinstance(fields[name], kind):
                    raise TypeError(f"{name} is {fields[name]!r}")
            if len(fields["shape"]) < 2 or min(fields["shape"]) < 0:
                raise ValueError(f"shape is {fields['shape']}")
            codec = _core.PageCodec(
                fields["scheme"], fields["role"], fields["head_dim"], fields["page_tokens"], [], []
            )
        except (KeyError, TypeError, ValueError, Error) as error:
            raise FormatError(f"the description of the encoded rows cannot be read: {error}") from (
                error
            )
        page_bytes = codec.facts()["page_bytes"]
        *leading, rows, head_dim = fields["shape"]
        count = math.prod(leading) * -(-rows // fields["page_tokens"])
        body = data[-(-(12 + length) // 64) * 64 : -4]
        if head_dim != fields["head_dim"] or len(body) != count * page_bytes:
            raise FormatError(
                f"the encoded rows have {len(body)} bytes of pages: the shape {fields['shape']} "
                f"needs {count} pages of {page_bytes}"
            )
        pages = _core.empty_pages(count, page_bytes)
        pages.reshape(-1)[:] = np.frombuffer(body, np.uint8)
        fields["shape"] = tuple(fields["shape"])
        return cls(pages=pages, **fields)
