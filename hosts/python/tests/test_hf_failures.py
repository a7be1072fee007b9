# SPDX-License-Identifier: Apache-2.0
"""A step that fails must leave nothing behind: the next answer is that of a cache without it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import llama, logits, packed, prompt, use  # noqa: E402

import polarquant  # noqa: E402
from polarquant.hf import PolarQuantCache  # noqa: E402

pytestmark = pytest.mark.contract


def lengths(cache):
    return {layer.get_seq_length() for layer in cache.layers}


@pytest.mark.parametrize("tokens", (60, 600))
@pytest.mark.parametrize("prefix", (0, 40, 300))
def test_a_refused_argument_of_attention_leaves_the_cache_as_it_was(prefix, tokens):
    model = use(llama(), "polarquant")
    ids = prompt(prefix + tokens + 3)

    def answer(fail):
        cache = packed(model, "turbo4:balance:center/turbo4")
        if prefix:
            logits(model, ids, cache, [prefix])
        rest = ids[:, prefix : prefix + tokens]
        if fail:
            with pytest.raises(polarquant.UnsupportedError, match="head_mask"), torch.no_grad():
                model(rest, past_key_values=cache, head_mask=torch.ones(1))
            assert lengths(cache) == {prefix}
        return logits(model, ids[:, prefix:], cache, [tokens, 1, 1, 1])

    assert torch.equal(answer(False), answer(True))


def test_a_page_that_cannot_close_leaves_the_cache_as_it_was():
    model = use(llama(), "sdpa")
    ids = prompt(500)
    cache = PolarQuantCache(model.config)
    logits(model, ids, cache, [200])
    with pytest.raises(polarquant.ParameterError, match="set_attn_implementation"):
        logits(model, ids[:, 200:], cache, [300])
    assert lengths(cache) == {200}
    assert all(row.cache.length == 200 for each in cache.packed_layers() for row in each.rows)


def test_arithmetic_on_packed_keys_leaves_the_cache_as_it_was():
    model = use(llama(), "polarquant")
    cache = packed(model, "turbo4:center/turbo4")
    logits(model, prompt(50), cache, [50])
    step = torch.randn(1, 2, 1, 64)
    keys, _ = cache.update(step, step, 0)
    with pytest.raises(polarquant.HostError, match="polarquant's attention function"):
        torch.cat([keys, keys])
    assert lengths(cache) == {50}


def test_a_step_that_stopped_between_two_layers_is_noticed():
    model = use(llama(), "polarquant")
    ids = prompt(70)
    for before in (0, 50):
        cache = packed(model, "f16")
        if before:
            logits(model, ids, cache, [before])

        def stop(*_):
            raise KeyboardInterrupt

        hook = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt), torch.no_grad():
            model(ids[:, before:60], past_key_values=cache)
        hook.remove()
        with pytest.raises(polarquant.ParameterError, match="half-way"):
            logits(model, ids[:, 60:], cache, [1])
        cache.crop(before) if before else cache.reset()
        assert lengths(cache) == {before}
        whole = logits(model, ids, packed(model, "f16"), [before, 60 - before] if before else [60])
        again = logits(model, ids[:, before:], cache, [60 - before])
        assert torch.equal(again, whole[:, before:])
