# SPDX-License-Identifier: Apache-2.0
"""Odd uses of the cache: what must not change an answer, and what is refused by name."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import llama, packed, prompt, use  # noqa: E402

import polarquant  # noqa: E402
from polarquant.hf import PolarQuantCache  # noqa: E402
from polarquant.hf.attention import _half  # noqa: E402


def filled(model, tokens=200, scheme="turbo4:center/turbo4"):
    cache = packed(model, scheme)
    with torch.no_grad():
        model(prompt(tokens), past_key_values=cache)
    return cache


def test_memory_between_an_update_and_its_attention_changes_nothing():
    model = use(llama(), "polarquant")
    cache = filled(model)
    layer = cache.packed_layers()[0]
    step = torch.randn(1, 2, 1, 64)
    layer.update(step, step)
    assert cache.memory()["observed_bytes"] == 2 * step.nbytes
    assert layer.rows[0].cache.length == 200 and layer.get_seq_length() == 201


def test_a_mask_edited_in_place_is_read_again():
    model = use(llama(), "polarquant")
    ids = prompt(300)
    mask = torch.zeros(1, 1, 1, 300)
    answers = []
    for hidden in (0, 250):
        mask[..., :hidden] = torch.finfo(torch.float32).min
        for given in (mask, mask.clone()):
            cache = filled(model, 299)
            with torch.no_grad():
                out = model(ids[:, 299:], attention_mask=given, past_key_values=cache)
            answers.append(out.logits)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[2], answers[3])
    assert (answers[0] - answers[2]).abs().max() > 1e-2


def test_a_bias_in_a_mask_is_added_exactly_or_refused():
    model = llama()
    ids = prompt(301)

    def last(way, mask):
        use(model, way)
        cache = filled(model, 300, "f16")
        with torch.no_grad():
            return model(ids[:, 300:], attention_mask=mask, past_key_values=cache).logits

    steps = torch.arange(301.0)[None, None, None]
    for mask in (0.25 * steps, 3000 - 0.5 * steps, torch.full_like(steps, -1e5), 300 * steps):
        assert (last("polarquant", mask) - last("eager", mask)).abs().max() < 3e-2
    with pytest.raises(polarquant.ParameterError, match="int64"):
        last("polarquant", steps.long())


def test_a_bias_beside_sinks_keeps_its_size_or_is_refused():
    # Sinks do not move with a row, so nothing may be taken off it.
    seen = torch.zeros(1, 4, dtype=torch.bool)
    small = torch.tensor([[1.0, 0.5, 0.25, -40.3]])
    assert torch.equal(_half(small, seen, True)[:, :3], small[:, :3].half())
    large = torch.tensor([[3000.3, 2999.7, 0.0, 1.0]])
    with pytest.raises(polarquant.UnsupportedError, match="loses"):
        _half(large, seen, True)
    assert (_half(large, seen, False)[0, 1] + 0.6).abs() < 1e-3


def test_what_cannot_be_kept_is_said(tmp_path):
    model = use(llama(), "polarquant")
    cache = filled(model, 60, "turbo4:balance:center/turbo4")
    with pytest.raises(polarquant.UnsupportedError, match="balance"):
        cache.save(tmp_path / "early.cache")
    with pytest.raises(polarquant.UnsupportedError, match="save"):
        pickle.dumps(cache)
    for wrong in ({"profile": None}, {"skip_layers": 1}, {"residual_length": -1}, {"key": None}):
        with pytest.raises(polarquant.ParameterError, match=next(iter(wrong))):
            PolarQuantCache(model.config, **wrong)
    with pytest.raises(polarquant.ParameterError, match=r"model\.config"):
        PolarQuantCache(model)
