# SPDX-License-Identifier: Apache-2.0
"""Balance scales from a profile's file."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
numpy_files = pytest.importorskip("safetensors.numpy")

from hf_models import SIZES, WAYS, llama, logits, packed, prompt, small, use  # noqa: E402

import polarquant.hf  # noqa: E402
from polarquant.hf.balance import permuted  # noqa: E402


def save(path, balances: list[torch.Tensor], pairing: str, **others: list[torch.Tensor]) -> None:
    """A file as `polarquant tune` writes it, with these scales [num_kv_heads, head_dim], and other
    values of the same shape."""
    head_dim = balances[0].shape[1]
    facts = {
        "format": "polarquant-profile", "version": "2", "model": "a test", "architecture": "llama",
        "fingerprint": "0" * 32, "text": "", "tokens": "256", "page_tokens": "128",
        "layers": ",".join(map(str, range(len(balances)))),
    }  # fmt: skip
    tensors = {}
    for layer, balance in enumerate(balances):
        facts[f"layers.{layer}.rope"] = f"{pairing}:{head_dim}"
        ones = torch.ones_like(balance)
        for name in ("query_moment", "key_moment", "key_variance", "mean"):
            values = others[name][layer] if name in others else ones * (name != "mean")
            tensors[f"layers.{layer}.{name}"] = values.numpy()
        tensors[f"layers.{layer}.balance"] = balance.numpy()
    numpy_files.save_file(tensors, path, facts)


@pytest.fixture(scope="module")
def observed() -> list[torch.Tensor]:
    """The scales that `auto` finds, in the model's own order."""
    model = use(llama(), "polarquant")
    cache = packed(model, "turbo4:balance:center/turbo4")
    logits(model, prompt(600), cache, [600])
    return [layer.balance for layer in cache.layers]


@pytest.mark.parametrize("pairing", ["halves", "adjacent"])
def test_a_file_gives_the_numbers_of_the_scales_in_it(tmp_path, observed, pairing):
    stored = [permuted(each, "halves", 64, pairing) for each in observed]
    save(tmp_path / "profile", stored, pairing)
    model, ids, sizes = llama(), prompt(600), [400, 100, 1, 99]
    plain = packed(model, "turbo4:balance:center/turbo4")
    wanted = logits(use(model, "polarquant"), ids, plain, sizes)
    for way in WAYS:
        cache = packed(model, "turbo4:balance:center/turbo4", profile=tmp_path / "profile")
        got = logits(use(model, way), ids, cache, sizes)
        for layer, balance in zip(cache.layers, observed, strict=True):
            assert torch.equal(layer.balance, balance)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 if way == "polarquant" else 0.05)


@pytest.mark.parametrize("pairing", ["halves", "adjacent"])
def test_a_file_gives_the_centre_that_turns(tmp_path, pairing):
    """In whatever order of channels; the frequencies are the model's own."""
    generator = torch.Generator().manual_seed(4)
    moments = [torch.rand(2, 64, generator=generator) + 0.5 for _ in range(3)]
    means = [torch.randn(2, 64, generator=generator) * 0.2 for _ in range(3)]
    model, ids, sizes = llama(), prompt(600), [400, 100, 1, 99]
    for name, order in (("own", "halves"), ("other", pairing)):
        there = {
            "mean": [permuted(each, "halves", 64, order).contiguous() for each in means],
            "query_moment": [permuted(each, "halves", 64, order).contiguous() for each in moments],
        }
        save(tmp_path / name, [torch.ones(2, 64)] * 3, order, **there)
    plain = packed(model, "turbo4:balanced/turbo4", profile=tmp_path / "own")
    wanted = logits(use(model, "polarquant"), ids, plain, sizes)
    for way in WAYS:
        cache = packed(model, "turbo4:balanced/turbo4", profile=tmp_path / "other")
        got = logits(use(model, way), ids, cache, sizes)
        for layer, mean in zip(cache.layers, means, strict=True):
            assert torch.equal(torch.from_numpy(layer.profile.mean), mean)
            assert not torch.equal(layer.balance, torch.ones(2, 64))  # found from the moments
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 if way == "polarquant" else 0.05)


def test_a_profile_that_turns_other_channels_is_refused(tmp_path):
    config = transformers.GlmConfig(**SIZES, partial_rotary_factor=0.5, pad_token_id=0)
    save(tmp_path / "profile", [torch.ones(2, 64)] * 3, "adjacent")
    model = use(small(config), "sdpa")
    cache = packed(model, "turbo4:balanced/turbo4", profile=tmp_path / "profile")
    with pytest.raises(polarquant.ParameterError, match="turns 32 channels.*64 in the profile"):
        logits(model, prompt(5), cache, [5])


@pytest.mark.parametrize("tokens", (0, 300))
def test_a_loaded_cache_keeps_its_profile(tmp_path, observed, tokens):
    twice = [2 * each for each in observed]
    save(tmp_path / "profile", twice, "halves")
    model, ids = use(llama(), "polarquant"), prompt(300)
    cache = packed(model, "turbo4:balance:center/turbo4", profile=tmp_path / "profile")
    if tokens:
        logits(model, ids, cache, [tokens])
    cache.save(tmp_path / "cache")
    loaded = polarquant.hf.PolarQuantCache.load(tmp_path / "cache", model.config)
    loaded.reset()
    logits(model, ids, loaded, [300])
    for layer, balance in zip(loaded.layers, twice, strict=True):
        assert torch.equal(layer.balance, balance)


def test_a_profile_of_another_model_is_refused(tmp_path, observed):
    model = use(llama(), "sdpa")
    save(tmp_path / "short", observed[:1], "halves")
    with pytest.raises(polarquant.ParameterError, match="no layer 1"):
        cache = packed(model, "turbo4:balance:center/turbo4", profile=tmp_path / "short")
        logits(model, prompt(5), cache, [5])
    save(tmp_path / "wide", [torch.ones(4, 64)] * 3, "halves")
    with pytest.raises(polarquant.ParameterError, match="another model"):
        cache = packed(model, "turbo4:balance:center/turbo4", profile=tmp_path / "wide")
        logits(model, prompt(5), cache, [5])
