# SPDX-License-Identifier: Apache-2.0
"""Models that ask more of a cache and of attention than Llama: sliding windows, shared keys,
softcap, sinks. Both ways against eager attention with the library's own cache."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import SIZES, logits, packed, prompt, small, stock, use  # noqa: E402

import polarquant  # noqa: E402

pytestmark = pytest.mark.contract


def gemma2():
    return transformers.Gemma2Config(
        **{**SIZES, "num_hidden_layers": 4}, sliding_window=32, query_pre_attn_scalar=64,
        attn_logit_softcapping=5.0, final_logit_softcapping=None,
    )  # fmt: skip


def gemma3():
    return transformers.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 4}, sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * 2, query_pre_attn_scalar=64,
    )  # fmt: skip


def gpt_oss():
    return transformers.GptOssConfig(
        **{**SIZES, "num_hidden_layers": 4}, num_local_experts=2, num_experts_per_tok=1,
        sliding_window=32, layer_types=["sliding_attention", "full_attention"] * 2,
        rope_scaling=None, use_cache=True,
    )  # fmt: skip


def gemma3n():
    return transformers.Gemma3nTextConfig(
        vocab_size=64, vocab_size_per_layer_input=64, hidden_size=64, intermediate_size=96,
        num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        sliding_window=32, num_kv_shared_layers=2, hidden_size_per_layer_input=16,
        layer_types=["sliding_attention", "full_attention"] * 3, laurel_rank=8,
        activation_sparsity_pattern=[0.0] * 6,
    )  # fmt: skip


MODELS = [gemma2, gemma3, gpt_oss, gemma3n]
SIZES_FED = [100, 1, 30, 1, 68]


@pytest.mark.parametrize("way", ["eager", "polarquant"])
@pytest.mark.parametrize("config", MODELS)
def test_f16_has_the_numbers_of_eager_attention(config, way):
    model, ids = small(config()), prompt(200, 2)
    wanted = logits(use(model, "eager"), ids, stock(model), SIZES_FED)
    cache = packed(model)
    got = logits(use(model, way), ids, cache, SIZES_FED)
    scale = wanted.abs().max().item()
    torch.testing.assert_close(got, wanted, rtol=0, atol=5e-3 * scale)
    assert cache.get_seq_length() == 200


@pytest.mark.parametrize("config", MODELS)
def test_coded_pages_have_the_same_numbers_both_ways(config):
    model, ids = small(config()), prompt(600)
    sizes = [400, 1, 64, 135]
    got = [
        logits(use(model, way), ids, packed(model, "turbo4", residual_length=64), sizes)
        for way in ("eager", "polarquant")
    ]
    scale = got[0].abs().max().item()
    torch.testing.assert_close(got[0], got[1], rtol=0, atol=3e-2 * scale)


@pytest.mark.parametrize("config", [gemma2, gpt_oss])
def test_a_padded_batch(config):
    model, ids = small(config()), prompt(200, 2)
    mask = torch.ones_like(ids)
    mask[0, :60] = 0
    wanted = logits(use(model, "eager"), ids, stock(model), SIZES_FED, mask)
    got = logits(use(model, "polarquant"), ids, packed(model), SIZES_FED, mask)
    scale = wanted.abs().max().item()
    torch.testing.assert_close(got[0, 60:], wanted[0, 60:], rtol=0, atol=5e-3 * scale)
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=5e-3 * scale)


@pytest.mark.parametrize("config", MODELS)
def test_only_full_attention_layers_are_ours(config):
    config = config()
    cache = packed(small(config))
    types = config.layer_types
    for layer, kind in zip(cache.layers, types, strict=False):
        ours = isinstance(layer, polarquant.hf.PolarQuantLayer)
        assert ours == (kind == "full_attention" and type(layer).__name__ != "DummyLayer")
    shared = getattr(config, "num_kv_shared_layers", 0)
    assert len(cache.packed_layers()) == types[: len(types) - shared].count("full_attention")


def test_a_model_of_sliding_layers_alone_is_refused():
    config = transformers.MistralConfig(**SIZES, sliding_window=32)
    with pytest.raises(polarquant.UnsupportedError, match="no full-attention layer"):
        polarquant.hf.PolarQuantCache(config)


@pytest.mark.parametrize(
    "config, pairing, dims",
    [
        (transformers.LlamaConfig(**SIZES), "halves", 64),
        (transformers.GptOssConfig(**SIZES), "halves", 64),
        (
            transformers.CohereConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
            "adjacent",
            64,
        ),
        (transformers.GlmConfig(**SIZES, partial_rotary_factor=0.5), "adjacent", 32),
    ],
)
def test_the_pairs_of_rope_are_the_models_own(config, pairing, dims):
    from polarquant.hf.rope import rope_of

    assert rope_of(config, 64) == (pairing, dims)


def test_scales_move_between_the_orders_of_channels():
    from polarquant.hf.balance import permuted

    adjacent = torch.tensor([[0.0, 0, 1, 1, 2, 2, 9, 8]])  # pairs (0,1), (2,3), (4,5), and two more
    halves = permuted(adjacent, "adjacent", 6, "halves")
    assert halves.tolist() == [[0, 1, 2, 0, 1, 2, 9, 8]]
    assert torch.equal(permuted(halves, "halves", 6, "adjacent"), adjacent)
    assert torch.equal(permuted(halves, "halves", 6, "halves"), halves)
