# SPDX-License-Identifier: Apache-2.0
"""generate() and what it does to a cache, both ways of attending, against DynamicCache."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import WAYS, llama, logits, packed, prompt, stock, use  # noqa: E402

import polarquant  # noqa: E402

pytestmark = pytest.mark.contract


def generate(model, ids, cache, **options):
    return model.generate(
        ids,
        attention_mask=options.pop("attention_mask", torch.ones_like(ids)),
        past_key_values=cache,
        do_sample=False,
        max_new_tokens=options.pop("max_new_tokens", 40),
        **options,
    )


@pytest.mark.parametrize("way", WAYS)
def test_f16_says_what_a_dynamic_cache_says(way):
    model = llama()
    ids = prompt(150)
    wanted = generate(use(model, "sdpa"), ids, stock(model), max_new_tokens=200)
    got = generate(use(model, way), ids, packed(model), max_new_tokens=200)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("scheme", ["f16", "turbo4", "turbo3:center/turbo4"])
@pytest.mark.parametrize("rows", [1, 2])
def test_both_ways_have_the_same_numbers(scheme, rows):
    model, ids = llama(), prompt(700, rows)
    sizes = [300, 1, 64, 1, 200, 7, 1]
    ways = [logits(use(model, way), ids, packed(model, scheme), sizes) for way in WAYS]
    # What differs in the last bit may fall into the next code.
    torch.testing.assert_close(ways[0], ways[1], rtol=0, atol=0.02 if scheme == "f16" else 0.1)
    exact = logits(use(model, "sdpa"), ids, stock(model), sizes)
    assert (ways[1] - exact).abs().max() < (0.02 if scheme == "f16" else 3)
    first = sizes[0]
    torch.testing.assert_close(ways[1][:, :first], exact[:, :first], rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_is_computed_exactly_whatever_the_scheme(way):
    model, ids = llama(), prompt(600)
    wanted = logits(use(model, "sdpa"), ids, stock(model), [600])
    got = logits(use(model, way), ids, packed(model, "turbo2:center/turbo2"), [600])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_beam_search(way):
    model, ids = llama(), prompt(20)
    options = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 60}
    wanted = generate(use(model, "sdpa"), ids, stock(model), **options)
    got = generate(use(model, way), ids, packed(model), **options)
    assert torch.equal(got, wanted)


def test_beam_search_on_coded_pages_is_the_same_both_ways():
    model, ids = llama(), prompt(300)
    options = {"num_beams": 3, "max_new_tokens": 60}
    got = [generate(use(model, way), ids, packed(model, "turbo4"), **options) for way in WAYS]
    assert torch.equal(got[0], got[1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["f16", "turbo4"])
def test_assisted_decoding_changes_nothing(way, scheme):
    model, assistant, ids = llama(), copy.deepcopy(llama()), prompt(200)
    with torch.no_grad():  # often right, not always
        assistant.lm_head.weight.add_(torch.randn_like(assistant.lm_head.weight) * 0.03)
    use(assistant, "sdpa")
    use(model, way)
    plain = generate(model, ids, packed(model, scheme))
    assisted = generate(model, ids, packed(model, scheme), assistant_model=assistant)
    assert torch.equal(plain, assisted)
    if scheme == "f16":
        assert torch.equal(plain, generate(use(model, "sdpa"), ids, stock(model)))


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_padded_on_the_left(way):
    model = llama()
    short, long = prompt(30, seed=2), prompt(200, seed=3)
    ids = torch.zeros(2, 200, dtype=torch.long)
    ids[0, 170:], ids[1] = short[0], long[0]
    mask = torch.ones_like(ids)
    mask[0, :170] = 0
    wanted = generate(use(model, "sdpa"), ids, stock(model), attention_mask=mask)
    cache = packed(model)
    got = generate(use(model, way), ids, cache, attention_mask=mask)
    assert torch.equal(got, wanted)
    assert cache.get_seq_length() == 200 + 39


def test_padding_is_not_kept_where_the_mask_is_seen():
    """Sinks and pages are then those of the row alone: the same numbers as without padding."""
    model = use(llama(), "polarquant")
    ids = prompt(600)
    alone = logits(model, ids, packed(model, "turbo4:balance:center/turbo4"), [400, 1, 150, 1])
    padded = torch.cat([torch.zeros(1, 100, dtype=torch.long), ids], dim=1)
    both = torch.cat([padded, prompt(700, seed=5)])
    mask = torch.ones_like(both)
    mask[0, :100] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, parts, first = packed(model, "turbo4:balance:center/turbo4"), [], 0
    with torch.no_grad():
        for size in (64, 436, 1, 150, 1):  # the first piece is padding alone
            part = slice(first, first + size)
            out = model(
                both[:, part], past_key_values=cache, attention_mask=mask[:, : first + size],
                position_ids=positions[:, part],
            )  # fmt: skip
            parts.append(out.logits)
            first += size
    assert [row.pad for row in cache.layers[0].rows] == [100, 0]
    assert cache.layers[0].rows[0].cache.length == 552
    got = torch.cat(parts, dim=1)[0, 100:]
    # The balance is that of both rows together.
    torch.testing.assert_close(got[:400], alone[0, :400], rtol=0, atol=0.02)
    assert (got - alone[0]).abs().mean() < 0.1
    with pytest.raises(polarquant.ParameterError, match="padded on the left"):
        model(both[:, :1], past_key_values=cache)
    seen = torch.ones(2, 654)
    seen[1, 300] = 0
    with pytest.raises(polarquant.ParameterError, match="first 100 tokens were padding"):
        model(both[:, :2], past_key_values=cache, attention_mask=seen)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["turbo4", "f16"])
def test_a_rolled_back_history_is_the_history(way, scheme):
    """Tokens that were dropped leave no trace but that of time: what left the window is coded."""
    model, ids = use(llama(), way), prompt(420)

    def rolled_back(seed):
        cache = packed(model, scheme)
        logits(model, ids, cache, [400])
        logits(model, prompt(37, seed=seed), cache, [30, 7])
        cache.crop(-37)
        return logits(model, ids[:, 400:], cache, [10, 10])

    straight = logits(model, ids, packed(model, scheme), [400, 10, 10])[:, 400:]
    rolled = rolled_back(9)
    torch.testing.assert_close(rolled, rolled_back(10), rtol=0, atol=1e-5)
    torch.testing.assert_close(rolled, straight, rtol=0, atol=1e-5 if scheme == "f16" else 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["turbo4", "f16", "turbo4:balance:center/turbo4"])
def test_a_deep_copy_of_a_prefix_is_reused(way, scheme):
    if "balance" in scheme and way == "sdpa":
        pytest.skip("needs queries")
    model, ids = use(llama(), way), prompt(500)
    prefix = packed(model, scheme)
    logits(model, ids, prefix, [400])
    for seed in (3, 4):
        ending = prompt(60, seed=seed)
        cache = copy.deepcopy(prefix)
        got = logits(model, ending, cache, [40, 1, 19])
        fresh = packed(model, scheme)
        logits(model, ids, fresh, [400])
        torch.testing.assert_close(
            got, logits(model, ending, fresh, [40, 1, 19]), rtol=0, atol=1e-5
        )
    assert prefix.get_seq_length() == 400


def test_the_way_may_change_while_the_cache_is_in_use():
    model, ids = llama(), prompt(500)
    straight = logits(use(model, "sdpa"), ids, packed(model, "turbo4"), [300, 100, 1, 99])
    cache, parts = packed(model, "turbo4"), []
    for way, first, last in (("polarquant", 0, 300), ("sdpa", 300, 400), ("polarquant", 400, 500)):
        parts.append(logits(use(model, way), ids[:, first:last], cache, [last - first]))
    torch.testing.assert_close(
        torch.cat(parts, dim=1)[:, :401], straight[:, :401], atol=0.02, rtol=0
    )


def test_auto_profile_takes_the_first_page_however_it_arrives():
    model, ids = use(llama(), "polarquant"), prompt(600)
    balances = []
    for sizes in ([600], [100, 20, 8, 472], [1] * 5 + [200, 395]):
        cache = packed(model, "turbo4:balance:center/turbo4")
        logits(model, ids, cache, sizes)
        balances.append([layer.balance for layer in cache.layers])
    for other in balances[1:]:
        for a, b in zip(balances[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert balances[0][0].shape == (2, 64)
    halves = balances[0][0].chunk(2, dim=1)
    assert torch.equal(*halves)  # RoPE's pairs have one scale


def test_a_saved_balanced_cache_goes_on_as_if_nothing_had_happened(tmp_path):
    from polarquant.hf import PolarQuantCache

    model, ids = use(llama(), "polarquant"), prompt(700)
    cache = packed(model, "turbo4:balance:center/turbo4")
    logits(model, ids, cache, [500])
    cache.save(tmp_path / "cache")
    loaded = PolarQuantCache.load(tmp_path / "cache", model.config)
    rest = ids[:, 500:]
    torch.testing.assert_close(
        logits(model, rest, loaded, [1, 150, 49]),
        logits(model, rest, cache, [1, 150, 49]), rtol=0, atol=1e-6,
    )  # fmt: skip


def test_a_dynamic_cache_works_with_our_attention():
    model, ids = llama(), prompt(300, 2)
    mask = torch.ones_like(ids)
    mask[0, :40] = 0
    for given in (None, mask):
        sizes = [200, 1, 50, 49]
        wanted = logits(use(model, "sdpa"), ids, stock(model), sizes, given)
        got = logits(use(model, "polarquant"), ids, stock(model), sizes, given)
        seen = slice(40, None)  # what padding says is no one's business
        torch.testing.assert_close(got[:, seen], wanted[:, seen], rtol=0, atol=1e-5)
    wanted = use(model, "sdpa")(ids, use_cache=False).logits
    got = use(model, "polarquant")(ids, use_cache=False).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_another_attention_cannot_read_packed_rows():
    model = use(llama(), "polarquant")
    config = copy.deepcopy(model.config)
    cache = polarquant.hf.PolarQuantCache(config, key="turbo4")
    use(model, "eager")
    with pytest.raises(polarquant.Error, match="set_attn_implementation"):
        model(prompt(5), past_key_values=cache)


def test_what_our_attention_cannot_honour_is_refused():
    model = use(llama(), "polarquant")
    cache = packed(model, "turbo4")
    ids = prompt(20)
    logits(model, ids, cache, [20])
    attend = transformers.AttentionInterface()["polarquant"]
    layer, module = cache.layers[0], model.model.layers[0].self_attn
    query, new = torch.randn(1, 4, 1, 64), torch.randn(1, 2, 1, 64)
    for options, words in (
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"dropout": 0.1}, "dropout"),
        ({"sliding_window": 8}, "sliding window of 8"),
        ({"output_attentions": True}, "output_attentions"),
    ):
        keys, values = layer.update(new, new)
        with pytest.raises(polarquant.UnsupportedError, match=words):
            attend(module, query, keys, values, None, **options)
    with pytest.raises(polarquant.ParameterError, match="mask has the shape"):
        keys, values = layer.update(new, new)
        attend(module, query, keys, values, torch.ones(1, 4, 1, 99, dtype=torch.bool))
