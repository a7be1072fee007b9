# SPDX-License-Identifier: Apache-2.0
"""The tables of codecs and schemes."""

from __future__ import annotations

import pytest

import polarquant


def test_every_codec_is_named_with_its_facts():
    codecs = {codec.name: codec for codec in polarquant.codecs()}
    assert {"f16", "q8_0", "turbo2", "turbo3", "turbo4", "kivi2"} <= set(codecs)
    assert codecs["turbo3"].code_bits == 3 and codecs["turbo3"].rotates
    assert not codecs["qjl"].values
    for codec in codecs.values():
        assert codec.summary and codec.source
        assert codec.keys or codec.values
        for option in codec.options:
            spelled = f"{codec.name}:{option.name}={option.usual}"
            role = "key" if codec.keys else "value"
            # The usual value is left out of canonical spellings.
            assert polarquant.Codec(spelled, 128, role).scheme == codec.name


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_every_scheme_makes_a_codec_of_the_said_size(head_dim):
    schemes = polarquant.schemes(head_dim)
    assert len({scheme.name for scheme in schemes}) == len(schemes) > 40
    for scheme in schemes:
        for role in scheme.roles:
            codec = polarquant.Codec(scheme.name, head_dim, role)
            assert codec.scheme == scheme.name
            assert codec.page_bytes == scheme.page_bytes or role == "value"
        first = polarquant.Codec(scheme.name, head_dim, scheme.roles[0])
        assert first.bits_per_value == scheme.bits_per_value
        assert first.record_bytes == scheme.record_bytes
        assert first.header_bytes == scheme.header_bytes


def test_a_head_dim_that_nothing_takes_is_refused():
    with pytest.raises(polarquant.UnsupportedError, match="head_dim 65"):
        polarquant.schemes(65)
    with pytest.raises(polarquant.UnsupportedError, match="page_tokens 77"):
        polarquant.schemes(128, page_tokens=77)
