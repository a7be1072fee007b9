# SPDX-License-Identifier: Apache-2.0
"""What there is: codecs and schemes, with what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from polarquant import _core
from polarquant.errors import UnsupportedError


@dataclass(frozen=True)
class OptionInfo:
    """A setting of a codec, spelled name=value in a scheme."""

    name: str
    summary: str
    values: str  # "1..7" or "halves|adjacent"
    usual: str  # where a scheme says nothing


@dataclass(frozen=True)
class CodecInfo:
    """A row of the table of codecs."""

    name: str
    summary: str
    source: str  # the paper or format
    code_bits: int  # a value, without scales and headers
    keys: bool  # stores keys
    values: bool  # stores values
    rotates: bool  # rows are rotated unless a scheme says rotate=none
    scale_rules: bool  # takes scale=
    normalises: bool  # takes center, balance and the like
    options: tuple[OptionInfo, ...]


@dataclass(frozen=True)
class SchemeInfo:
    """A scheme for one head_dim, and what it costs."""

    name: str
    roles: tuple[str, ...]  # "key", "value"
    bits_per_value: float  # of a full page, everything counted
    record_bytes: int  # of one row: scales and codes
    header_bytes: int  # of one page: statistics of its rows
    page_bytes: int
    page_tokens: int
    fast: bool  # a kernel of this CPU reads the codes without decoding them first
    summary: str


def codecs() -> list[CodecInfo]:
    """Every codec, in the order of the table."""
    return [
        CodecInfo(**{**facts, "options": tuple(OptionInfo(**each) for each in facts["options"])})
        for facts in _core.codecs()
    ]


def schemes(head_dim: int = 128, page_tokens: int = 128) -> list[SchemeInfo]:
    """Every codec bare and, where its scale adapts to the row, centred and balanced.

    Codecs that do not take this `head_dim` are left out. UnsupportedError if none does:
    `head_dim` must be a multiple of 16 from 16 to 1024, `page_tokens` 64, 128 or 256.
    """
    found, refused = [], None
    for codec in codecs():
        names = [codec.name]
        if codec.scale_rules:
            names.append(f"{codec.name}:center")
        if codec.scale_rules and codec.keys:
            names.append(f"{codec.name}:balance:center")
        for name in names:
            roles = []
            if codec.keys:
                roles.append("key")
            if codec.values and not name.endswith(":balance:center"):
                roles.append("value")
            try:
                facts = _core.PageCodec(name, roles[0], head_dim, page_tokens, [], []).facts()
            except UnsupportedError as error:
                refused = error
                continue
            found.append(
                SchemeInfo(
                    name=facts["scheme"],
                    roles=tuple(roles),
                    bits_per_value=facts["bits_per_value"],
                    record_bytes=facts["record_bytes"],
                    header_bytes=facts["header_bytes"],
                    page_bytes=facts["page_bytes"],
                    page_tokens=facts["page_tokens"],
                    fast=facts["fast"],
                    summary=codec.summary,
                )
            )
    if not found and refused is not None:
        raise refused
    return found
