# SPDX-License-Identifier: Apache-2.0
"""The z-score scheme behind cache_implementation="quantized": the ten unit tests and the
end-to-end test of its proposal to transformers, with their thresholds, and our registration."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import SIZES, llama, prompt, use  # noqa: E402

import polarquant  # noqa: E402
from polarquant.hf import PolarQuantLayer, register, unregister, zscore_cache  # noqa: E402

pytestmark = pytest.mark.contract

CONFIG = transformers.LlamaConfig(**SIZES)
COSINES = {2: 0.80, 3: 0.95, 4: 0.98, 5: 0.99}
PAGE = 128


@pytest.fixture
def registered():
    register()
    yield
    unregister()


def hadamard(size: int) -> torch.Tensor:
    """Sylvester's matrix, scaled to be orthogonal."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64), matrix)
    return matrix / size**0.5


def coded(bits: int, rows: torch.Tensor) -> torch.Tensor:
    """Rows [kv_heads, tokens, head_dim], whole pages, encoded and decoded by the cache."""
    heads, tokens, dim = rows.shape
    cache = polarquant._core.SequenceCache(
        f"zscore{bits}", f"zscore{bits}", dim, dim, heads, window_tokens=0, sink_tokens=0
    )
    cache.append(rows.contiguous(), rows.contiguous())
    cache.settle()
    out = torch.empty(heads, tokens, dim)
    cache.read("key", 0, tokens, out)
    assert cache.memory()["exact_cells"] == 0
    return out


def standard_page(dim: int) -> torch.Tensor:
    """A page whose channels have mean 0 and deviation 1 as bf16 sees it."""
    half = torch.randn(1, PAGE // 2, dim, generator=torch.Generator().manual_seed(3))
    page = torch.cat([half, -half], dim=1)
    return page / page.pow(2).mean(1, keepdim=True).sqrt()


def levels(bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotated values of a standard page, and those they were coded as."""
    page = standard_page(64)
    return page[0].double() @ hadamard(64), coded(bits, page)[0].double() @ hadamard(64)


@pytest.mark.parametrize("bits", COSINES)
def test_the_table_is_sorted_has_the_right_length_and_is_symmetric(bits):
    _, values = levels(bits)
    found = torch.unique(values.mul(1e3).round()) / 1e3
    assert len(found) == 2**bits
    assert torch.all(found.diff() > 0.05)
    torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64, 128, 256])
def test_the_rotation_is_orthogonal(size):
    matrix = hadamard(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    if size >= 64:  # the cache's own: a row keeps its length up to what coding costs
        page = standard_page(size)
        assert (coded(5, page).norm(dim=-1) / page.norm(dim=-1) - 1).abs().mean() < 0.02


@pytest.mark.parametrize("bits", COSINES)
def test_codes_survive_packing(bits):
    """Every value comes back as the level nearest to it: no code was cut or moved."""
    wanted, values = levels(bits)
    table = torch.unique(values.mul(1e3).round()) / 1e3
    nearest = table[(wanted.unsqueeze(-1) - table).abs().argmin(-1)]
    assert ((nearest - values).abs() < 2e-2).double().mean() > 0.995


@pytest.mark.parametrize("bits", COSINES)
@pytest.mark.parametrize("shape", [(1, 1, 5, 64), (2, 2, 300, 64), (1, 2, 1000, 64)])
def test_shape_is_preserved(bits, shape):
    config = transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": shape[1]})
    cache = zscore_cache(config, nbits=bits)
    tensor = torch.randn(shape).bfloat16()
    cache.update(tensor, tensor, 0)
    assert cache.layers[0].keys.shape == tensor.shape
    assert cache.layers[0].keys.dtype == tensor.dtype


@pytest.mark.parametrize("bits, least", COSINES.items())
@pytest.mark.parametrize("dim", [64, 128])
def test_cosine_of_a_round_trip(bits, least, dim):
    rows = torch.randn(4, 256, dim, generator=torch.Generator().manual_seed(bits)).bfloat16()
    cosine = torch.nn.functional.cosine_similarity(coded(bits, rows), rows.float(), dim=-1)
    assert cosine.mean() > least


@pytest.mark.parametrize("bits, least", COSINES.items())
def test_a_head_of_96_channels(bits, least):
    rows = torch.randn(2, 256, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    cosine = torch.nn.functional.cosine_similarity(coded(bits, rows), rows.float(), dim=-1)
    assert cosine.mean() > least


@pytest.mark.parametrize("bits", [0, 1, 6, 8])
def test_bad_nbits(bits):
    with pytest.raises(ValueError, match=f"`nbits`.*`2`, `3`, `4`, `5`.*{bits}"):
        zscore_cache(CONFIG, nbits=bits)


@pytest.mark.parametrize("name", ["axis_key", "axis_value"])
@pytest.mark.parametrize("axis", [1, 2, -2])
def test_bad_axis(name, axis):
    with pytest.raises(ValueError, match=f"`{name}`.*`0`, `-1`.*{axis}"):
        zscore_cache(CONFIG, **{name: axis})


def test_axis_minus_one_means_what_axis_zero_means():
    tensor = torch.randn(1, 2, 500, 64)
    keys = []
    for axis in (0, -1):
        cache = zscore_cache(CONFIG, nbits=3, axis_key=axis, axis_value=axis)
        cache.update(tensor, tensor, 0)
        keys.append(cache.layers[0].keys)
    assert torch.equal(*keys)


def test_dispatch_makes_our_layer_for_every_layer_of_the_model(registered):
    model = use(llama(), "sdpa")
    settings = {
        "backend": "polarquant", "nbits": 3, "residual_length": 128, "q_group_size": 64,
        "axis_key": 0, "axis_value": 0,
    }  # fmt: skip
    before = dict(settings)
    for _ in range(2):  # the caller's settings are good for another call
        out = model.generate(
            prompt(20), max_new_tokens=3, do_sample=False, return_dict_in_generate=True,
            cache_implementation="quantized", cache_config=settings,
        )  # fmt: skip
        layers = out.past_key_values.layers
        assert len(layers) == 3 and all(type(each) is PolarQuantLayer for each in layers)
        assert {(each.setup.key, each.setup.value) for each in layers} == {("zscore3", "zscore3")}
        assert settings == before


@pytest.mark.parametrize("bits", COSINES)
def test_generation_end_to_end(registered, bits):
    """Long enough that pages close; the prompt's own answer is exact."""
    model, ids = use(llama(), "sdpa"), prompt(300)
    options = {"max_new_tokens": 40, "do_sample": False}
    exact = model.generate(ids, **options)
    got = model.generate(
        ids, cache_implementation="quantized",
        cache_config={"backend": "polarquant", "nbits": bits, "residual_length": 1}, **options,
    )  # fmt: skip
    assert got.shape == exact.shape and int(got.max()) < SIZES["vocab_size"]
    assert torch.equal(got[:, :301], exact[:, :301])


def test_bad_settings_reach_the_caller_of_generate(registered):
    with pytest.raises(ValueError, match="`nbits`"):
        llama().generate(
            prompt(5), max_new_tokens=2, cache_implementation="quantized",
            cache_config={"backend": "polarquant", "nbits": 7},
        )  # fmt: skip


def test_unregister_undoes_register():
    method = transformers.GenerationMixin._prepare_cache_for_generation
    register()
    register()
    assert transformers.GenerationMixin._prepare_cache_for_generation is not method
    unregister()
    assert transformers.GenerationMixin._prepare_cache_for_generation is method
    unregister()
    with pytest.raises((ValueError, ImportError)):  # the library's own refusal
        llama().generate(
            prompt(5), max_new_tokens=2, cache_implementation="quantized",
            cache_config={"backend": "polarquant"},
        )  # fmt: skip


def test_other_caches_are_made_as_ever(registered):
    model = use(llama(), "sdpa")
    out = model.generate(prompt(5), max_new_tokens=2, return_dict_in_generate=True, do_sample=False)
    assert type(out.past_key_values) is transformers.DynamicCache
    with pytest.raises(ValueError, match="Passing both"):
        model.generate(
            prompt(5), max_new_tokens=2, cache_implementation="quantized",
            cache_config={"backend": "polarquant"},
            past_key_values=transformers.DynamicCache(config=model.config),
        )  # fmt: skip
