# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the commands write."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import gaussian
from polarquant import plots

pytest.importorskip("matplotlib")

DISTORTION = {
    "rows": 4096,
    "head_dim": 128,
    "data": "gaussian",
    "codecs": [
        {"scheme": "turbo3", "bits_per_value": 3.125, "sqnr_db": 15.0},
        {"scheme": "trellis3", "bits_per_value": 3.2, "sqnr_db": 16.0},
        {"scheme": "f16", "bits_per_value": 16.0, "sqnr_db": 70.0},
    ],
}
DIVERGENCE = {
    "tokens_scored": 1536,
    "floor": {"kl_mean": 1e-4},
    "runs": [
        {"kv": "stock:f16", "bits_per_value": 16.0, "kl_mean": 0.0},
        {"kv": "turbo4:balanced/turbo4", "bits_per_value": 4.5, "kl_mean": 0.002},
        {"kv": "turbo2", "bits_per_value": 2.5, "kl_mean": 0.2},
    ],
}
GAINS = {
    "model": "a model",
    "tokens": 1024,
    "text": "a text",
    "mean_gain_db": {"center": 1.5, "balanced": 3.0},
    "layers": [
        {"layer": 0, "num_kv_heads": 2, "gain_db": {"center": [1, 2], "balanced": [3, 4]}},
        {"layer": 3, "num_kv_heads": 1, "gain_db": {"center": [1.5], "balanced": [2]}},
    ],
}


@pytest.mark.parametrize(
    ("chart", "report", "words"),
    [
        ("distortion", DISTORTION, ["turbo3", "trellis3", "Shannon"]),
        ("divergence", DIVERGENCE, ["turbo4*", "turbo2", "Pareto front"]),
        ("gains", GAINS, ["center: 1.5 dB", "balanced: 3.0 dB", "layer", "a model"]),
    ],
)
def test_a_report_becomes_a_picture_always_the_same(tmp_path, chart, report, words):
    source, first, second = tmp_path / "report.json", tmp_path / "1.svg", tmp_path / "2.svg"
    source.write_text(json.dumps(report))
    for picture in (first, second):
        plots.main([chart, str(source), "-o", str(picture)])
    text = first.read_text()
    assert text == second.read_text()
    for word in words:
        assert word in text, word


def capture(path, layers):
    from safetensors.numpy import save_file

    tensors = {}
    for layer in layers:
        tensors[f"layer.{layer}.key"] = gaussian(layer, 2, 200, 64).astype(np.float16)
        tensors[f"layer.{layer}.value"] = gaussian(layer + 50, 2, 200, 64).astype(np.float16)
    save_file(tensors, str(path))


def test_errors_by_layer_are_those_of_the_codec(tmp_path):
    pytest.importorskip("safetensors")
    capture(tmp_path / "rows.safetensors", [0, 2, 11])
    rows = plots.read_capture(str(tmp_path / "rows.safetensors"))
    errors = plots.error_by_layer("turbo3:scale=mse", "key", rows["key"])
    assert list(errors) == [0, 2, 11]
    for error in errors.values():  # Gaussian rows of 64: 3 bits leave 3 % of their energy
        assert error == pytest.approx(-15.0, abs=0.5)
    assert plots.error_by_layer("f16", "value", rows["value"]) == {
        layer: -np.inf for layer in (0, 2, 11)
    }
    picture = tmp_path / "layers.svg"
    arguments = ["layers", str(tmp_path / "rows.safetensors"), "-o", str(picture)]
    plots.main([*arguments, "--scheme", "turbo3", "--scheme", "turbo4:center"])
    assert "turbo4:center" in picture.read_text() and "values" in picture.read_text()
    with pytest.raises(SystemExit, match="values as turbo4:balance:center|balance scales"):
        plots.main([*arguments, "--scheme", "turbo4:balance:center"])


def test_the_front_is_what_nothing_beats():
    points = [("a", 1, 9), ("b", 2, 5), ("c", 2, 6), ("d", 3, 5), ("e", 4, 1), ("f", 5, 2)]
    assert [name for name, _, _ in plots.pareto(points)] == ["a", "b", "e"]
    random = np.random.default_rng(0)
    cloud = [(str(i), *random.random(2)) for i in range(100)]
    front = plots.pareto(cloud)
    for name, x, y in cloud:
        beaten = any(fx <= x and fy <= y and (fx, fy) != (x, y) for _, fx, fy in front)
        assert beaten != (name in {each for each, _, _ in front})


def test_what_cannot_be_drawn_is_named(tmp_path):
    source, picture = tmp_path / "report.json", str(tmp_path / "picture.svg")
    source.write_text(json.dumps(DIVERGENCE))
    for arguments, message in (
        (["distortion", str(source)], 'has no "codecs"; make it with polarquant codecs --json'),
        (["gains", str(tmp_path / "none.json")], "cannot read"),
        (["layers", str(source), "--scheme", "turbo3"], "cannot read"),
    ):
        with pytest.raises(SystemExit, match=message):
            plots.main([*arguments, "-o", picture])
    for arguments in (["layers", str(source)], ["divergence", str(source), "--scheme", "turbo3"]):
        with pytest.raises(SystemExit) as caught:
            plots.main([*arguments, "-o", picture])
        assert caught.value.code == 2
