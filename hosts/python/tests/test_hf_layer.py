# SPDX-License-Identifier: Apache-2.0
"""The layer and the cache under every operation of transformers' contract, without a model."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import SIZES  # noqa: E402

import polarquant  # noqa: E402
from polarquant.hf import PolarQuantCache, PolarQuantLayer  # noqa: E402

pytestmark = pytest.mark.contract

CONFIG = transformers.LlamaConfig(**SIZES)
HEADS, DIM = 2, 64


def rows(tokens: int, batch: int = 1, seed: int = 0, dtype=torch.float16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, HEADS, tokens, DIM, generator=generator).to(dtype)


def filled(scheme: str = "f16", tokens: int = 10, batch: int = 1, **options) -> PolarQuantCache:
    cache = PolarQuantCache(CONFIG, key=scheme, value=scheme, **options)
    for layer in range(3):
        cache.update(rows(tokens, batch, layer), rows(tokens, batch, 10 + layer), layer)
    return cache


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1).min().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_update_returns_all_tokens_in_the_models_dtype(dtype):
    cache = PolarQuantCache(CONFIG, key="f16", value="f16")
    first, second = rows(7, 2, dtype=dtype), rows(3, 2, 1, dtype=dtype)
    keys, _ = cache.update(first, first, 0)
    assert keys.dtype == dtype and torch.equal(keys, first)
    keys, values = cache.update(second, second + 1, 0)
    assert keys.dtype == dtype and keys.shape == (2, HEADS, 10, DIM)
    assert torch.equal(keys[:, :, 7:], second) and torch.equal(values[:, :, 7:], second + 1)
    if dtype == torch.float32:
        assert torch.equal(keys[:, :, :7], first.half().float())
    else:
        torch.testing.assert_close(keys[:, :, :7], first, rtol=0, atol=1e-7)


def test_new_tokens_are_exact_and_old_ones_coded_once():
    cache = PolarQuantCache(CONFIG, key="turbo4", value="turbo4", residual_length=64)
    prompt = rows(400)
    keys, _ = cache.update(prompt, prompt, 0)
    assert torch.equal(keys, prompt)
    seen = []
    for step in range(3):
        keys, _ = cache.update(rows(1, seed=step + 5), rows(1), 0)
        seen.append(keys[:, :, :400])
    assert not torch.equal(seen[0], prompt)
    # The sinks and the window: exact rows spell their positions in their last bits.
    for part in (slice(0, 16), slice(-16, None)):
        torch.testing.assert_close(seen[0][:, :, part], prompt[:, :, part], rtol=2e-3, atol=1e-6)
    assert cosine(seen[0], prompt) > 0.98
    coded = slice(16, 300)
    assert torch.equal(seen[0][:, :, coded], seen[1][:, :, coded])
    assert torch.equal(seen[1][:, :, coded], seen[2][:, :, coded])


def test_the_cache_has_layers_as_the_config_says():
    cache = PolarQuantCache(CONFIG, key="turbo4", skip_layers=(0, -1))
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["DynamicLayer", "PolarQuantLayer", "DynamicLayer"]
    assert isinstance(cache.layers[1], PolarQuantLayer)
    assert not cache.is_compileable and cache.is_sliding == [False] * 3


def test_sizes_of_an_empty_and_of_a_filled_cache():
    cache = PolarQuantCache(CONFIG, key="f16", value="f16")
    assert cache.get_seq_length() == 0 and cache.layers[0].get_mask_sizes(5) == (5, 0)
    cache = filled(tokens=10)
    assert cache.get_seq_length() == 10
    assert cache.layers[0].get_mask_sizes(5) == (15, 0)
    assert cache.layers[0].get_mask_sizes(torch.arange(10, 15)) == (15, 0)
    assert cache.layers[0].get_max_length() == cache.layers[0].get_max_cache_shape() == -1
    assert cache.layers[0].batch_size == 1


def test_reset_makes_a_new_cache_of_any_batch_size():
    cache = filled(batch=2)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.memory()["filled_cells"] == 0
    keys, _ = cache.update(rows(4, 3), rows(4, 3), 0)
    assert keys.shape[0] == 3


@pytest.mark.parametrize("scheme", ["f16", "turbo4"])
def test_crop_keeps_the_oldest_tokens_as_they_were(scheme):
    cache = filled(scheme, 500, residual_length=64)
    before = cache.layers[0].keys.clone()
    for crop, left in ((-3, 497), (-100, 397), (130, 130), (-1000, 0)):
        cache.crop(crop)
        assert cache.get_seq_length() == left
        if left:
            assert torch.equal(cache.layers[0].keys, before[:, :, :left])
    new = rows(5, seed=9)
    keys, _ = cache.update(new, new, 0)
    assert torch.equal(keys, new)


def test_crop_by_zero_means_what_the_library_means_by_it():
    ours, theirs = filled(), transformers.DynamicCache(config=CONFIG)
    for layer in range(3):
        theirs.update(rows(10), rows(10), layer)
    ours.crop(0)
    theirs.crop(0)
    assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("scheme", ["f16", "turbo4"])
@pytest.mark.parametrize("indices", [[2, 0, 0, 1], [1, 1, 1], [0]])
def test_rows_are_reordered_as_in_a_dynamic_cache(scheme, indices):
    cache = filled(scheme, 300, batch=3, residual_length=64)
    before = cache.layers[0].keys
    chosen = torch.tensor(indices)
    for name in ("reorder_cache", "batch_select_indices"):
        edited = copy.deepcopy(cache)
        getattr(edited, name)(chosen)
        assert torch.equal(edited.layers[0].keys, before[chosen])
        new = rows(1, len(indices), seed=4)
        keys, _ = edited.update(new, new, 0)
        assert torch.equal(keys[:, :, :300], before[chosen])
        assert torch.equal(keys[:, :, 300:], new)
    assert torch.equal(cache.layers[0].keys, before)


def test_rows_are_repeated_and_share_their_pages():
    cache = filled("turbo4", 2000, batch=2, sink_tokens=0, residual_length=64)
    before, one = cache.layers[0].values, cache.memory()
    cache.batch_repeat_interleave(4)
    assert torch.equal(cache.layers[0].values, before.repeat_interleave(4, dim=0))
    assert cache.memory()["code_bytes"] == one["code_bytes"]


def test_a_boolean_selection_keeps_the_true_rows():
    cache = filled(batch=3)
    before = cache.layers[1].keys
    cache.batch_select_indices(torch.tensor([True, False, True]))
    assert torch.equal(cache.layers[1].keys, before[[0, 2]])


def test_a_deep_copy_shares_pages_and_goes_its_own_way():
    cache = filled("turbo4", 2000)
    fork = copy.deepcopy(cache)
    assert fork.config is cache.config
    before = cache.layers[0].keys
    fork.crop(-700)
    new = rows(300, seed=8)
    fork.update(new, new, 0)
    assert torch.equal(cache.layers[0].keys, before)
    assert torch.equal(fork.layers[0].keys[:, :, :1300], before[:, :, :1300])
    assert cache.get_seq_length() == 2000


@pytest.mark.parametrize("scheme", ["f16", "turbo4", "turbo3:center"])
def test_a_saved_cache_is_the_same_when_loaded(scheme, tmp_path):
    cache = filled(scheme, 700, batch=2, residual_length=64, sink_tokens=4)
    cache.batch_repeat_interleave(2)
    cache.save(tmp_path / "cache")
    loaded = PolarQuantCache.load(tmp_path / "cache", CONFIG)
    assert loaded.get_seq_length() == 700 and loaded.layers[0].batch_size == 4
    for ours, theirs in zip(loaded.layers, cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
    new = rows(100, 4, seed=3)
    for each in (cache, loaded):
        each.update(new, new, 0)
        each.update(new, new, 0)
    assert torch.equal(loaded.layers[0].keys, cache.layers[0].keys)
    # In whole pages of the system, on which slots lie as they come.
    assert loaded.memory()["code_bytes"] == pytest.approx(cache.memory()["code_bytes"], rel=0.1)


def test_a_file_of_another_model_is_refused(tmp_path):
    filled().save(tmp_path / "cache")
    other = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": 5})
    with pytest.raises(polarquant.Error, match="5"):
        PolarQuantCache.load(tmp_path / "cache", other)


def test_saving_is_refused_where_a_stock_layer_holds_tokens(tmp_path):
    cache = filled(skip_layers=[1])
    with pytest.raises(polarquant.UnsupportedError, match="layer 1 is a DynamicLayer"):
        cache.save(tmp_path / "cache")


def test_memory_counts_every_tensor():
    cache = filled("turbo4", 2000, skip_layers=[1], sink_tokens=0)
    use = cache.memory()
    assert use["stock_bytes"] == 2 * rows(2000).nbytes
    assert use["filled_cells"] == 2 * 2 * 2000
    assert use["total_bytes"] - use["stock_bytes"] < 0.5 * use["f16_bytes"]


def test_early_initialization_prepares_rows():
    cache = PolarQuantCache(CONFIG, key="f16", value="f16")
    if not hasattr(cache, "early_initialization"):
        pytest.skip("not in this transformers")
    cache.early_initialization(2, HEADS, DIM, torch.float16, torch.device("cpu"))
    assert cache.layers[0].is_initialized and cache.get_seq_length() == 0
    new = rows(3, 2)
    keys, _ = cache.update(new, new, 0)
    assert torch.equal(keys, new)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"key": "turbo9"}, "turbo9"),
        ({"key": "turbo4:dense"}, "dense"),
        ({"residual_length": -1}, "-1"),
        ({"page_tokens": 100}, "100"),
        ({"skip_layers": [3]}, "0 to 2"),
        ({"threads": 0}, "from 1 to 1024"),
        ({"rope": "both"}, "'halves'"),
        ({"profile": "/nowhere"}, "/nowhere"),
        ({"policy": '{"key": "turbo4"}', "key": "turbo3"}, "leave out"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(options, words):
    with pytest.raises(polarquant.Error, match=words):
        PolarQuantCache(CONFIG, **options)


def test_a_policy_gives_layers_their_schemes():
    policy = (
        '{"key": "turbo4", "value": "turbo3", "window": 256, "sinks": 2, '
        '"layers": [{"first": -1, "last": -1, "key": "q8_0", "value": "f16"}]}'
    )
    cache = PolarQuantCache(CONFIG, policy=policy)
    setups = [layer.setup for layer in cache.layers]
    assert [s.key for s in setups] == ["turbo4", "turbo4", "q8_0"]
    assert [s.value for s in setups] == ["turbo3", "turbo3", "f16"]
    assert {(s.window_tokens, s.sink_tokens) for s in setups} == {(256, 2)}


def test_what_cannot_be_done_is_refused_by_name():
    cache = filled()
    layer = cache.layers[0]
    with pytest.raises(polarquant.UnsupportedError, match="not offloaded"):
        layer.offload()
    with pytest.raises(polarquant.UnsupportedError, match="float64"):
        cache.update(rows(1).double(), rows(1).double(), 0)
    with pytest.raises(polarquant.UnsupportedError, match="meta"):
        cache.update(rows(1).to("meta"), rows(1).to("meta"), 0)
    with pytest.raises(polarquant.ParameterError, match="2 rows for a cache that holds 1"):
        cache.update(rows(1, 2), rows(1, 2), 0)
    with pytest.raises(polarquant.UnsupportedError, match="cannot be set"):
        layer.keys = rows(1)
    assert cache.get_seq_length() == 10


def test_a_balanced_page_without_queries_names_the_remedies():
    cache = PolarQuantCache(CONFIG)
    new = rows(200)
    cache.update(new, new, 0)  # nothing has left the window
    with pytest.raises(polarquant.Error, match="set_attn_implementation.*tune.*turbo4:center"):
        cache.update(new, new, 0)


def test_a_gradient_through_the_cache_is_refused():
    cache = filled()
    new = rows(1, dtype=torch.float32).requires_grad_()
    keys, _ = cache.update(new, new, 0)
    with pytest.raises(polarquant.Error, match="no gradient"):
        keys.sum().backward()
