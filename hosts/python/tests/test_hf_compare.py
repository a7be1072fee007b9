# SPDX-License-Identifier: Apache-2.0
"""The harness that compares caches."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_models import llama, prompt, use  # noqa: E402

from polarquant.hf import compare  # noqa: E402


def test_it_measures_speed_and_bytes_of_random_weights(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    compare.main(
        ["-m", "random", "-c", "300", "--decode", "6", "--batch", "2", "--random-shape", "2,4,2,64",
         "--cache", "dynamic", "--cache", "turbo4:center/turbo4@packed", "--json", str(figures)]
    )  # fmt: skip
    report = json.loads(figures.read_text())
    assert [row["cache"] for row in report["caches"]] == ["dynamic", "turbo4:center/turbo4@packed"]
    assert all(row["decode_tokens_per_s"] > 0 for row in report["caches"])
    assert all(row["decode_depth"] == 300 for row in report["caches"])
    out = capsys.readouterr().out
    assert "decode tok/s" in out and "a step with an empty cache" in out
    pytest.importorskip("matplotlib")
    picture = tmp_path / "figures.svg"
    compare.main(["--json", str(figures), "--plot", str(picture)])
    assert "tokens/s" in picture.read_text()


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    assert "optimum-quanto is not installed" in compare.Way("quanto4", None).reason


def test_balanced_keys_without_queries_need_a_profile():
    assert compare.Way("turbo4:balance:center/turbo4@decoded", None).needs_queries()
    assert not compare.Way("turbo4:balance:center/turbo4@packed", None).needs_queries()


def test_an_unknown_cache_is_refused():
    with pytest.raises(SystemExit, match="@packed"):
        compare.Way("turbo4", None)


def test_quality_of_the_same_logits_is_perfect():
    ids = prompt(300)
    model = use(llama(), "sdpa")
    dynamic = compare.Way("dynamic", None)
    same = compare.teacher_forced(model, ids, dynamic.make(model), 64, "")
    found = compare.quality(same, same, ids)
    assert found["kl_mean"] == 0 and found["top1"] == 1
    other = compare.quality(same, same.flip(0), ids)
    assert other["kl_mean"] > 0.1 and other["top1"] < 0.5 and other["ppl"] > 1


def test_bytes_of_a_dynamic_cache_are_its_tensors():
    model = use(llama(), "sdpa")
    cache = compare.Way("dynamic", None).make(model)
    compare.teacher_forced(model, prompt(100), cache, 100, "")
    assert compare.bytes_of(cache) == 3 * 2 * 2 * 100 * 64 * 4
