# SPDX-License-Identifier: Apache-2.0
"""A real model from its GGUF file: PQ_TEST_MODEL names it."""

from __future__ import annotations

import os
import pathlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

from hf_models import logits, packed, stock, use  # noqa: E402

MODEL = os.environ.get("PQ_TEST_MODEL")
TEXT = pathlib.Path(__file__).parents[3] / "testdata" / "essay.txt"
pytestmark = pytest.mark.skipif(not MODEL, reason="PQ_TEST_MODEL is not set")


@pytest.fixture(scope="module")
def model():
    folder, file = os.path.split(MODEL)
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def ids():
    folder, file = os.path.split(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return tokenizer(TEXT.read_text(encoding="utf-8"), return_tensors="pt").input_ids


def answer(model, ids, cache, tokens=200):
    model.generation_config.eos_token_id = None
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), past_key_values=cache, do_sample=False,
        max_new_tokens=tokens, pad_token_id=0,
    )  # fmt: skip


def test_f16_is_token_identical_for_200_tokens_both_ways(model, ids):
    wanted = answer(use(model, "sdpa"), ids[:, :100], stock(model))
    for way in ("sdpa", "polarquant"):
        assert torch.equal(answer(use(model, way), ids[:, :100], packed(model)), wanted), way


def test_divergence_stays_small(model, ids):
    """Fed in pieces of 64, so that most tokens meet coded history."""
    ids, sizes = ids[:, :1024], [64] * 16
    wanted = logits(use(model, "sdpa"), ids, stock(model), sizes)[0].log_softmax(-1)

    def divergence(way, scheme):
        got = logits(use(model, way), ids, packed(model, scheme), sizes)[0].log_softmax(-1)
        return float((wanted.exp() * (wanted - got)).sum(-1).mean())

    figures = {
        name: divergence(*name)
        for name in (
            ("polarquant", "f16"),
            ("polarquant", "turbo4:balanced/turbo4"),
            ("polarquant", "turbo4:balance:center/turbo4"),
            ("polarquant", "turbo4:center/turbo4"),
            ("sdpa", "turbo4:center/turbo4"),
            ("polarquant", "turbo3:balance:center/turbo3"),
        )
    }
    print(figures)
    assert figures["polarquant", "f16"] < 1e-5
    for keys in ("balanced", "balance:center"):
        assert figures["polarquant", f"turbo4:{keys}/turbo4"] < 0.004
    assert figures["polarquant", "turbo3:balance:center/turbo3"] < 0.016
    both = [figures[way, "turbo4:center/turbo4"] for way in ("polarquant", "sdpa")]
    assert abs(both[0] - both[1]) < 0.1 * both[0]
