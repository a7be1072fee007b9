# SPDX-License-Identifier: Apache-2.0
"""Keys whose centre turns with the position (center=step): what is learnt of them from the prompt,
and that every way of using a cache keeps it."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import SIZES, llama, logits, packed, prompt, small, stock, use  # noqa: E402

import polarquant  # noqa: E402
from polarquant.hf import PolarQuantCache  # noqa: E402
from polarquant.hf.rope import rope_of, turning_rope_of  # noqa: E402

pytestmark = pytest.mark.contract

BALANCED = "turbo4:balanced/turbo4"
LATER = int(transformers.__version__.split(".")[0]) >= 5
WITHOUT_HEAD_DIM = {**{k: v for k, v in SIZES.items() if k != "head_dim"}, "hidden_size": 256}


def scaled(**facts) -> transformers.LlamaConfig:
    if LATER:
        return transformers.LlamaConfig(**SIZES, rope_parameters={"rope_theta": 1e4, **facts})
    return transformers.LlamaConfig(**SIZES, rope_theta=1e4, rope_scaling=facts)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


def turned(mean: torch.Tensor, rope, positions: torch.Tensor) -> torch.Tensor:
    """A mean [heads, head_dim] as RoPE has it at each position: [heads, n, head_dim]."""
    keys = mean.double()[:, None].repeat(1, len(positions), 1)
    pairs = torch.arange(rope.dims // 2)
    a, b = (2 * pairs, 2 * pairs + 1) if rope.pairing == "adjacent" else (pairs, pairs + len(pairs))
    frequencies = torch.tensor(rope.frequencies, dtype=torch.float64)
    turns = torch.polar(
        torch.tensor(rope.magnitude).double(), positions[:, None].double() * frequencies
    )
    moved = torch.complex(keys[..., a], keys[..., b]) * turns
    keys[..., a], keys[..., b] = moved.real, moved.imag
    return keys


MODELS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "yarn": lambda: scaled(**YARN),
    "linear": lambda: scaled(rope_type="linear", factor=2.0),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 4}, sliding_window=32, query_pre_attn_scalar=64,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "a part of the channels": lambda: transformers.GPTNeoXConfig(
        **{k: v for k, v in WITHOUT_HEAD_DIM.items() if k != "num_key_value_heads"},
        rotary_pct=0.25,
    ),
    "neighbours": lambda: transformers.CohereConfig(**WITHOUT_HEAD_DIM),
    "full attention without": lambda: transformers.Cohere2Config(
        **WITHOUT_HEAD_DIM, sliding_window=32,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    "a layer without": lambda: transformers.SmolLM3Config(
        **WITHOUT_HEAD_DIM, no_rope_layers=[1, 0, 1], pad_token_id=0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_keys_are_turned_as_the_model_turns_them(name):
    """The same token everywhere is the same key before RoPE, so all keys are the mean, turned."""
    model = use(small(MODELS[name]()), "polarquant")
    ids, first = torch.full((1, 200), 5), 7
    cache = packed(model, BALANCED)
    with torch.no_grad():
        model(
            ids, past_key_values=cache, attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(first, first + 200)[None],
        )  # fmt: skip
    for layer in cache.packed_layers():
        row, rope = layer.rows[0], layer._rope(64)
        mean = torch.from_numpy(layer.profile.mean)
        for part in (slice(0, 16), slice(72, 200)):  # exact rows
            positions = torch.arange(part.start, part.stop)
            keys = torch.empty(row.cache.num_kv_heads, len(positions), 64)
            row.cache.read("key", part.start, len(positions), keys)
            wanted = turned(mean, rope, first + positions)
            assert (keys - wanted).norm() < 2e-3 * wanted.norm()


def test_the_prompt_tells_the_mean_key_before_rope():
    model, ids = llama(), prompt(400)
    seen = stock(model)
    logits(use(model, "sdpa"), ids, seen, [400])
    cache = packed(model, BALANCED)
    logits(use(model, "polarquant"), ids, cache, [400])
    angles = model.model.rotary_emb(torch.zeros(1), torch.arange(128)[None])
    cos, sin = (each[0] for each in angles)
    for layer, exact in zip(cache.layers, seen.layers, strict=True):
        keys = exact.keys[0, :, :128]
        back = torch.cat([keys[..., 32:], -keys[..., :32]], dim=-1)  # rotate_half, the other way
        wanted = (keys * cos + back * sin).mean(1)
        got = torch.from_numpy(layer.profile.mean)
        assert (got - wanted).norm() < 1e-3 * wanted.norm()
        assert torch.equal(*layer.balance.chunk(2, dim=1))  # RoPE's pairs have one scale


def biased(seed: int) -> torch.nn.Module:
    """Keys with a mean, as those of many models."""
    model = small(transformers.Qwen2Config(**WITHOUT_HEAD_DIM), seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias.data.normal_(0, 8, generator=generator)
    return model


@pytest.mark.parametrize("make", [llama, biased])
def test_answers_are_about_as_good_as_with_the_mean_of_pages(make):
    sums = {"turbo4:balance:center/turbo4": 0.0, BALANCED: 0.0}
    for seed in range(2):
        model, ids, sizes = make(seed), prompt(1500, seed=seed + 5), [300] + [100] * 12
        exact = logits(use(model, "sdpa"), ids, stock(model), sizes)[0].log_softmax(-1)
        for scheme in sums:
            cache = packed(model, scheme)
            got = logits(use(model, "polarquant"), ids, cache, sizes)[0].log_softmax(-1)
            sums[scheme] += float((exact.exp() * (exact - got)).sum(-1).mean())
    assert sums[BALANCED] < 1.15 * sums["turbo4:balance:center/turbo4"], sums


def test_codes_depend_on_a_row_and_its_position_alone():
    """So how the tokens came, and what was cut off again, leaves no trace in them."""
    model, ids = use(llama(), "polarquant"), prompt(700)
    straight = packed(model, BALANCED)
    logits(model, ids, straight, [400, 300])
    crooked = packed(model, BALANCED)
    logits(model, ids[:, :450], crooked, [400, 50])
    logits(model, prompt(90, seed=9), crooked, [90])
    crooked.crop(-140)
    logits(model, ids[:, 400:], crooked, [300])
    for a, b in zip(straight.layers, crooked.layers, strict=True):
        assert torch.equal(a.keys[:, :, 16:400], b.keys[:, :, 16:400])


@pytest.mark.parametrize("offset", ["as generate counts", "as a forward pass counts"])
def test_padding_on_the_left_moves_the_centre_with_the_row(offset):
    model = use(llama(), "polarquant")
    ids, pad = prompt(500), 90
    alone = packed(model, BALANCED)
    wanted = logits(model, ids, alone, [300, 1, 199])
    both = torch.cat([torch.zeros(1, pad, dtype=torch.long), ids], dim=1).repeat(2, 1)
    mask = torch.ones_like(both)
    mask[:, :pad] = 0
    positions = torch.arange(pad + 500)[None].expand(2, -1)
    if offset == "as generate counts":
        positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, parts, first = packed(model, BALANCED), [], 0
    with torch.no_grad():
        for size in (40, pad + 260, 1, 199):  # the first piece is padding alone
            part = slice(first, first + size)
            out = model(
                both[:, part], past_key_values=cache, attention_mask=mask[:, : first + size],
                position_ids=positions[:, part],
            )  # fmt: skip
            parts.append(out.logits)
            first += size
    start = 0 if offset == "as generate counts" else pad
    for layer, single in zip(cache.layers, alone.layers, strict=True):
        assert [(row.pad, row.start) for row in layer.rows] == [(pad, start)] * 2
        mean, same = (torch.from_numpy(each.profile.mean) for each in (layer, single))
        torch.testing.assert_close(mean, same, rtol=1e-3, atol=1e-3)
    got = torch.cat(parts, dim=1)[:, pad:]
    assert (got - wanted).abs().mean() < 0.05


def test_a_padded_batch_is_generated():
    model = use(llama(), "polarquant")
    ids = prompt(300, rows=2)
    mask = torch.ones_like(ids)
    mask[0, :100] = 0
    cache = packed(model, BALANCED)
    model.generate(
        ids, attention_mask=mask, past_key_values=cache, do_sample=False, max_new_tokens=5
    )
    for layer in cache.layers:
        assert [(row.pad, row.start) for row in layer.rows] == [(100, 0), (0, 0)]


def test_padding_is_refused_where_the_model_tells_no_positions():
    model = use(llama(), "polarquant")
    ids = prompt(40, 2)
    mask = torch.ones_like(ids)
    mask[0, :10] = 0
    hooks = [  # as models do that hand no positions on to attention
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, given: (args, {**given, "position_ids": None}), with_kwargs=True
        )
        for layer in model.model.layers
    ]
    try:
        cache = packed(model, BALANCED)
        with pytest.raises(polarquant.UnsupportedError, match="row 0 of layer 0 is padded"):
            logits(model, ids, cache, [40], mask)
        assert {layer.get_seq_length() for layer in cache.layers} == {0}
        logits(model, ids, cache, [40])
        logits(model, ids, packed(model, "turbo4:balance:center/turbo4"), [40], mask)
    finally:
        for hook in hooks:
            hook.remove()


def test_positions_that_jump_are_refused_and_leave_the_cache_as_it_was():
    model, ids = use(llama(), "polarquant"), prompt(40)
    cache = packed(model, BALANCED)
    logits(model, ids, cache, [30])
    with pytest.raises(polarquant.UnsupportedError, match="balance:center"), torch.no_grad():
        model(ids[:, 30:], past_key_values=cache, position_ids=torch.arange(50, 60)[None])
    assert {layer.get_seq_length() for layer in cache.layers} == {30}
    logits(model, ids[:, 30:], cache, [10])
    cache.crop(-40)
    with torch.no_grad():  # an empty row may start anywhere, whatever was known before
        model(ids, past_key_values=cache, position_ids=torch.arange(50, 90)[None])
    assert [row.start for row in cache.layers[0].rows] == [50]


def test_beams_fork_and_copies_go_their_own_ways():
    model, ids = use(llama(), "polarquant"), prompt(400)
    cache = packed(model, BALANCED)
    model.generate(
        ids, attention_mask=torch.ones_like(ids), past_key_values=cache, num_beams=3,
        max_new_tokens=20, do_sample=False,
    )  # fmt: skip
    prefix = packed(model, BALANCED)
    logits(model, ids, prefix, [400])
    copied = copy.deepcopy(prefix)
    rest = prompt(60, seed=3)
    got = logits(model, rest, copied, [40, 20])
    fresh = packed(model, BALANCED)
    logits(model, ids, fresh, [400])
    assert torch.equal(got, logits(model, rest, fresh, [40, 20]))
    assert prefix.get_seq_length() == 400


def test_assisted_decoding_changes_nothing():
    model, assistant, ids = use(llama(), "polarquant"), copy.deepcopy(llama()), prompt(300)
    with torch.no_grad():  # often right, not always
        assistant.lm_head.weight.add_(torch.randn_like(assistant.lm_head.weight) * 0.03)
    use(assistant, "sdpa")
    options = {
        "attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 30,
    }  # fmt: skip
    plain = model.generate(ids, past_key_values=packed(model, BALANCED), **options)
    assisted = model.generate(
        ids, past_key_values=packed(model, BALANCED), assistant_model=assistant, **options
    )
    assert torch.equal(plain, assisted)


@pytest.mark.parametrize("start", [0, 33])
def test_a_saved_cache_goes_on_as_if_nothing_had_happened(tmp_path, start):
    model, ids = use(llama(), "polarquant"), prompt(700, rows=2)
    positions = torch.arange(start, start + 700)[None]

    def go_on(cache, sizes, first):
        parts = []
        with torch.no_grad():
            for size in sizes:
                part = slice(first, first + size)
                out = model(ids[:, part], past_key_values=cache, position_ids=positions[:, part])
                parts.append(out.logits)
                first += size
        return torch.cat(parts, dim=1)

    cache = packed(model, BALANCED)
    go_on(cache, [500], 0)
    cache.save(tmp_path / "cache")
    loaded = PolarQuantCache.load(tmp_path / "cache", model.config)
    for a, b in zip(cache.layers, loaded.layers, strict=True):
        assert [row.start for row in b.rows] == [start] * 2
        for name in ("mean", "balance"):
            old, new = (torch.from_numpy(getattr(each.profile, name)) for each in (a, b))
            torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        go_on(loaded, [1, 150, 49], 500), go_on(cache, [1, 150, 49], 500), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "config, words",
    [
        (lambda: scaled(rope_type="dynamic", factor=2.0), "rope_type 'dynamic'"),
        (
            lambda: scaled(
                rope_type="longrope", factor=2.0, original_max_position_embeddings=1024,
                short_factor=[1.0] * 32, long_factor=[2.0] * 32,
            ),
            "rope_type 'longrope'",
        ),
        (
            lambda: transformers.GPTJConfig(
                vocab_size=64, n_embd=256, n_layer=3, n_head=4, rotary_dim=32
            ),
            "GPTJConfig",
        ),
    ],
)  # fmt: skip
def test_frequencies_that_change_or_are_unknown_are_refused_by_name(config, words):
    config = config()
    with pytest.raises(polarquant.UnsupportedError, match=words) as refused:
        PolarQuantCache(config)
    assert "key='turbo4:balance:center'" in str(refused.value)
    PolarQuantCache(config, key="turbo4:balance:center")


def test_models_without_rope_keep_their_mean_as_it_is():
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=256, n_layer=3, n_head=4, n_positions=1024
    )
    assert turning_rope_of(config, 0, 64, "auto").dims == 0
    model, ids = small(config), prompt(600)
    sizes = [300, 1, 299]
    exact = logits(use(model, "sdpa"), ids, stock(model), sizes)
    got = logits(use(model, "polarquant"), ids, packed(model, BALANCED), sizes)
    assert (got - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_frequencies_and_pairs_agree_on_the_channels():
    for name in ("llama", "yarn", "a part of the channels", "neighbours"):
        config = MODELS[name]()
        rope = turning_rope_of(config, 0, 64, "auto")
        assert (rope.pairing, rope.dims) == rope_of(config, 64)
    assert turning_rope_of(scaled(**YARN), 0, 64, "auto").magnitude == pytest.approx(1.1386, 1e-3)
    assert turning_rope_of(scaled(**YARN), 0, 64, "none").dims == 0
