# SPDX-License-Identifier: Apache-2.0
"""Rows of keys or values, encoded, decoded, and multiplied with queries as they are."""

from __future__ import annotations

import sys
import zlib
from typing import Any

import numpy as np

from polarquant import _core
from polarquant.encoded import Encoded
from polarquant.errors import ParameterError


class Codec:
    """Encodes rows of one scheme and head_dim.

    Arrays are NumPy's or torch's, on the CPU, with float32, float16 or bfloat16 values. They are
    read and written where they lie, through DLPack: leading dimensions may have any strides, the
    values of a row must be neighbours (a transposed last dimension is refused, not copied). Only
    NumPy arrays of ml_dtypes.bfloat16, which NumPy cannot hand out, go through a float32 copy.

    A Codec does not change: threads may share one, and it can be pickled.

    Args:
        scheme: for instance "turbo3" or "turbo4:center"; `polarquant.schemes()` lists them.
        head_dim: values in a row, a multiple of 16 from 16 to 1024.
        role: "key" or "value". Their pages differ.
        page_tokens: rows encoded together: 64, 128 or 256.
        balance: float32 [head_dim], the scales of the keys' head for a scheme with
            `balance`. Without them sizes are known and rows are refused.
        dense: float32 [head_dim, head_dim], the map of the head for a scheme with `dense`.

    Raises:
        FormatError: the scheme cannot be parsed.
        UnsupportedError: a codec that does not take this role, head_dim, page_tokens or device.
        ParameterError: a value outside its range, or a shape that does not fit.
    """

    def __init__(
        self,
        scheme: str,
        head_dim: int,
        role: str = "key",
        page_tokens: int = 128,
        *,
        balance: Any = None,
        dense: Any = None,
    ) -> None:
        self._balance = _map_of(balance, "balance", (head_dim,))
        self._dense = _map_of(dense, "dense", (head_dim, head_dim))
        self._core = _core.PageCodec(
            scheme,
            role,
            head_dim,
            page_tokens,
            self._balance.ravel().tolist(),
            self._dense.ravel().tolist(),
        )
        self._facts = self._core.facts()
        crc = zlib.crc32(self._dense.tobytes(), zlib.crc32(self._balance.tobytes()))
        self._map = crc if self._balance.size or self._dense.size else None

    @property
    def scheme(self) -> str:
        """The scheme in its canonical spelling."""
        return self._facts["scheme"]

    @property
    def role(self) -> str:
        """ "key" or "value"."""
        return self._facts["role"]

    @property
    def head_dim(self) -> int:
        """Values in a row."""
        return self._facts["head_dim"]

    @property
    def page_tokens(self) -> int:
        """Rows of a page."""
        return self._facts["page_tokens"]

    @property
    def record_bytes(self) -> int:
        """Bytes of one row: scales and codes."""
        return self._facts["record_bytes"]

    @property
    def header_bytes(self) -> int:
        """Bytes of the statistics of a page."""
        return self._facts["header_bytes"]

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, everything counted."""
        return self._facts["page_bytes"]

    @property
    def bits_per_value(self) -> float:
        """Bits a value of a full page, everything counted."""
        return self._facts["bits_per_value"]

    @property
    def sharpen(self) -> float:
        """What `dot` multiplies logits by: 1 unless the scheme has sharpen=."""
        return self._facts["sharpen"]

    @property
    def fast(self) -> bool:
        """Whether attention on this CPU reads the codes without decoding them first."""
        return self._facts["fast"]

    def __repr__(self) -> str:
        return (
            f"Codec({self.scheme!r}, head_dim={self.head_dim}, role={self.role!r}, "
            f"page_tokens={self.page_tokens}): {self.bits_per_value:.3f} bits a value"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.scheme, self.head_dim, self.role, self.page_tokens)
        return _make, (arguments, self._balance, self._dense)

    def encode(self, rows: Any, *, threads: int = 0) -> Encoded:
        """Encodes rows [..., n, head_dim].

        The n rows of each leading index (a sequence of one kv_head) get pages of their own. Rows of
        a page share its statistics, so encoding rows in pieces of whole pages gives the same pages
        as encoding them at once. NaN counts as 0, values beyond +-65504 as that.

        Args:
            rows: [..., n, head_dim]; n may be 0.
            threads: 0 for as many as OMP_NUM_THREADS or the CPU has.
        """
        pages = self._core.encode(_readable(rows), threads)
        return Encoded(
            scheme=self.scheme,
            role=self.role,
            head_dim=self.head_dim,
            page_tokens=self.page_tokens,
            shape=tuple(rows.shape),
            pages=pages,
            map=self._map,
        )

    def decode(
        self, encoded: Encoded, *, like: Any = None, out: Any = None, threads: int = 0
    ) -> Any:
        """The rows again, [..., n, head_dim], as attention sees them.

        Args:
            encoded: of a codec equal to this one.
            like: an array or tensor whose kind and number type the result has; without it the
                result is a float32 NumPy array.
            out: [..., n, head_dim], written to and returned, instead of `like`.
            threads: as for `encode`.
        """
        self._check(encoded)
        if like is not None and out is not None:
            raise ParameterError("like and out were both given: out says what the result is")
        if out is not None:
            _check_shape(out, "out", encoded.shape)
            buffer = _Buffer(out)
        else:
            buffer = _Buffer(_empty_like(like, encoded.shape))
        self._core.decode(encoded.pages, buffer.array, threads)
        return buffer.result()

    def dot(self, queries: Any, encoded: Encoded, *, scale: float = 1.0, threads: int = 0) -> Any:
        """Logits of queries against encoded rows, which are never turned back.

        The queries are weighed and rotated once, and multiplied with the codes. The same as
        `scale * codec.sharpen * queries @ decoded.T`, to rounding.

        Args:
            queries: [..., m, head_dim] with the leading dimensions of the encoded rows. For
                grouped queries, the heads of a group are m.
            encoded: [..., n, head_dim].
            scale: what logits are multiplied by.
            threads: as for `encode`.

        Returns:
            float32 [..., m, n], of the queries' kind.
        """
        self._check(encoded)
        shape = getattr(queries, "shape", None)
        if shape is not None and tuple(shape[:-2]) != encoded.shape[:-2]:
            raise ParameterError(
                f"queries have the leading dimensions {list(shape[:-2])}, the encoded rows "
                f"{list(encoded.shape[:-2])}: they must be equal"
            )
        readable = _readable(queries)
        logits = _empty_floats(queries, (*(shape or (0,))[:-1], len(encoded)))
        self._core.dot(readable, encoded.pages, logits, scale, threads)
        return logits

    def records(self, encoded: Encoded, *, threads: int = 0) -> np.ndarray:
        """The records of the rows, uint8 [..., n, record_bytes].

        A record is a row's scales and then its codes, least significant bit first, wherever the
        page keeps its parts (FORMAT.md).
        """
        self._check(encoded)
        *leading, rows, _ = encoded.shape
        count = int(np.prod(leading, dtype=np.int64))
        records = self._core.records(encoded.pages, count, rows, threads)
        return records.reshape(*leading, rows, self.record_bytes)

    def _check(self, encoded: Encoded) -> None:
        if not isinstance(encoded, Encoded):
            raise ParameterError(
                f"encoded is a {type(encoded).__name__}: pass what encode() or "
                "Encoded.frombytes() returned"
            )
        for name in ("scheme", "role", "head_dim", "page_tokens"):
            mine, theirs = getattr(self, name), getattr(encoded, name)
            if mine != theirs:
                raise ParameterError(
                    f"the rows were encoded with {name} {theirs}, this codec has {mine}; "
                    "decode them with a codec like the one that encoded them"
                )
        if encoded.map != self._map:
            raise ParameterError(
                "the keys were weighed with other scales than this codec has; "
                "give it the same balance or dense map"
            )


def _make(arguments: tuple[Any, ...], balance: np.ndarray, dense: np.ndarray) -> Codec:
    return Codec(
        *arguments, balance=balance if balance.size else None, dense=dense if dense.size else None
    )


def _map_of(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Scales or a map as float32; empty if there are none."""
    if values is None:
        return np.empty(0, np.float32)
    array = np.array(values, np.float32, order="C", copy=True)  # the caller may change theirs
    if array.shape != shape:
        raise ParameterError(f"{name} has the shape {list(array.shape)}: it must be {list(shape)}")
    return array


def _is_tensor(array: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(array, torch.Tensor)


def _is_ml_bfloat16(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.name == "bfloat16"


def _readable(array: Any) -> Any:
    return array.astype(np.float32) if _is_ml_bfloat16(array) else array


def _check_shape(array: Any, name: str, shape: tuple[int, ...]) -> None:
    theirs = getattr(array, "shape", None)
    if theirs is not None and tuple(theirs) != shape:
        raise ParameterError(f"{name} has the shape {list(theirs)}: it must be {list(shape)}")


def _empty_like(like: Any, shape: tuple[int, ...]) -> Any:
    if like is None:
        return np.empty(shape, np.float32)
    if _is_tensor(like):
        return sys.modules["torch"].empty(shape, dtype=like.dtype, device=like.device)
    if isinstance(like, np.ndarray):
        return np.empty(shape, like.dtype)
    raise ParameterError(f"like is a {type(like).__name__}: pass a NumPy array or a tensor")


def _empty_floats(like: Any, shape: tuple[int, ...]) -> Any:
    if _is_tensor(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=torch.float32)
    return np.empty(shape, np.float32)


class _Buffer:
    """What is written to in place of an array that NumPy cannot hand out."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self.array = np.empty(target.shape, np.float32) if _is_ml_bfloat16(target) else target

    def result(self) -> Any:
        if self.array is not self._target:
            self._target[...] = self.array
        return self._target
