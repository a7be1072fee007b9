# SPDX-License-Identifier: Apache-2.0
"""What transformers does with its own caches and models, ours does too, or refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import SIZES, llama, logits, packed, prompt, small, stock, use  # noqa: E402

import polarquant  # noqa: E402
from polarquant.hf import PolarQuantCache, register, unregister  # noqa: E402


def test_a_text_tower_stays_causal():
    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=32, eos_token_id=63,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPTextModel(config).eval()
    answers = []
    for way in ("eager", "polarquant"):
        with torch.no_grad():
            answers.append(use(model, way)(prompt(20)).last_hidden_state)
    assert (answers[0] - answers[1]).abs().max() < 1e-4


def test_sharpened_keys_are_not_handed_out_decoded():
    model = use(llama(), "sdpa")
    cache = packed(model, "turbo4:sharpen=130/turbo4")
    with pytest.raises(polarquant.UnsupportedError, match="sharpen"):
        logits(model, prompt(300), cache, [200, 100])
    use(model, "polarquant")
    logits(model, prompt(300)[:, 200:], cache, [100])


def test_an_assistant_with_sliding_windows_works_with_the_spelling_of_quantized_caches():
    sizes = {**SIZES, "num_hidden_layers": 2, "sliding_window": 16}
    model, assistant = (
        small(transformers.Gemma2Config(**sizes, query_pre_attn_scalar=64), seed) for seed in (0, 1)
    )
    settings = {"backend": "polarquant", "nbits": 5, "residual_length": 64}
    register()
    try:
        plain, assisted = (
            use(model, "eager").generate(
                prompt(40), max_new_tokens=12, do_sample=False, cache_implementation="quantized",
                cache_config=dict(settings), **options,
            )
            for options in ({}, {"assistant_model": use(assistant, "eager")})
        )  # fmt: skip
        with pytest.raises(polarquant.ParameterError, match="compute_dtype"):
            model.generate(
                prompt(4), cache_implementation="quantized",
                cache_config={**settings, "compute_dtype": "float16"},
            )  # fmt: skip
    finally:
        unregister()
    assert torch.equal(plain, assisted)


@pytest.mark.parametrize("prefix", (0, 30))
def test_gradients_of_keys_and_values_are_refused(prefix):
    model = small(transformers.LlamaConfig(**SIZES))
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    model.model.layers[-1].self_attn.v_proj.requires_grad_(True)
    use(model, "polarquant")
    cache = packed(model, "f16")
    if prefix:
        logits(model, prompt(prefix), cache, [prefix])
    loss = model(prompt(8), past_key_values=cache).logits.sum()
    with pytest.raises(polarquant.HostError, match="gradient"):
        loss.backward()


def test_a_file_of_another_model_is_refused(tmp_path):
    model = use(llama(), "polarquant")
    cache = packed(model, "turbo4:balance:center/turbo4")
    logits(model, prompt(300), cache, [300])
    cache.save(tmp_path / "a.cache")
    other = transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": 1})
    with pytest.raises(polarquant.ParameterError, match="num_key_value_heads 2"):
        PolarQuantCache.load(tmp_path / "a.cache", other)
    with pytest.raises(polarquant.ParameterError, match="model_type 'llama'"):
        PolarQuantCache.load(tmp_path / "a.cache", transformers.Qwen2Config(**SIZES))


def test_a_mask_shared_by_layers_with_and_without_sinks_is_packed_for_each():
    from polarquant.hf.attention import _packed_masks

    mask = torch.full((1, 1, 1, 8), -6.0)
    without = _packed_masks(mask, [0], True, False)[0]
    beside = _packed_masks(mask, [0], True, True)[0]
    assert torch.equal(without, torch.zeros(1, 8, dtype=torch.float16))
    assert torch.equal(beside, torch.full((1, 8), -6.0, dtype=torch.float16))


@pytest.mark.parametrize("kind", (list, np.array, torch.tensor))
def test_rows_are_selected_by_booleans_and_by_numbers(kind):
    model = use(llama(), "polarquant")
    cache = packed(model, "f16")
    logits(model, prompt(20, rows=3), cache, [20])
    rows = cache.layers[0].keys
    cache.batch_select_indices(kind([True, False, True]))
    assert torch.equal(cache.layers[0].keys, rows[[0, 2]])
    cache.batch_select_indices(kind([1, 0, 1]))
    assert torch.equal(cache.layers[0].keys, rows[[2, 0, 2]])


@pytest.mark.parametrize("count", (-20, 30))
def test_all_layers_are_cropped_alike(count):
    model = use(llama(), "polarquant")
    ids = prompt(60)
    cache = PolarQuantCache(model.config, key="f16", value="f16", skip_layers=[2])
    whole = logits(model, ids, stock(model), [30, 20])
    logits(model, ids, cache, [50])
    cache.crop(count)
    assert {layer.get_seq_length() for layer in cache.layers} == {30}
    again = logits(model, ids[:, 30:], cache, [20])
    assert (again - whole[:, 30:]).abs().max() < 1e-2 * whole.abs().max()


def test_settings_of_another_type_are_refused_by_name(tmp_path):
    config = llama().config
    for name, value in (
        ("sink_tokens", 1.5), ("threads", 1.5), ("threads", 3000), ("skip_layers", [0.5]),
        ("policy", str(tmp_path / "missing")),
    ):  # fmt: skip
        with pytest.raises(polarquant.ParameterError, match=name.split("_")[0]):
            PolarQuantCache(config, **{name: value})


def test_a_head_dim_that_the_config_only_implies_is_checked():
    config = transformers.GPT2Config(n_embd=160, n_head=4, n_layer=2)
    with pytest.raises(polarquant.UnsupportedError, match="head_dim 40"):
        PolarQuantCache(config)
