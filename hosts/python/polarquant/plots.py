# SPDX-License-Identifier: Apache-2.0
"""Draws what the commands measured, as SVG (or whatever the name of the picture ends with).

  polarquant codecs --head-dim 128 --json codecs.json
  python -m polarquant.plots distortion codecs.json -o distortion.svg

  polarquant perplexity -m MODEL -f TEXT --kv turbo4 --kv turbo3 --json perplexity.json
  bench/family.py -m MODEL -f TEXT --json perplexity.json    # or all codecs
  python -m polarquant.plots divergence perplexity.json -o divergence.svg

  polarquant profile MODEL.profile --json profile.json
  python -m polarquant.plots gains profile.json -o gains.svg

  polarquant capture -m MODEL -f TEXT -o rows.safetensors
  python -m polarquant.plots layers rows.safetensors --scheme turbo3 --scheme turbo4 -o layers.svg

`distortion`: the error of rows in dB against bits a value, with Shannon's bound for Gaussian rows.
`divergence`: the mean KL divergence from the 16-bit cache against bits a value, with the Pareto
front: the caches that no other one beats in both.
`gains`: by how many dB a model's profile lowers the error of its logits, by layer and kv_head.
`layers`: the error of a model's own keys and values in dB, layer by layer, encoded here.

Needs matplotlib, and `layers` safetensors: pip install 'polarquant[plots]'.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

Point = tuple[str, float, float]  # name, x, y

# A codec's family by what its name matches first, with marker and colour.
FAMILIES = [
    (r"turbo\d_0", "blocks of a fork", "h", "tab:orange"),
    (r"turboprod", "turboprod", "v", "tab:cyan"),
    (r"turbo", "turbo", "o", "tab:blue"),
    (r"trellis", "trellis", "^", "tab:green"),
    (r"e8", "E8", "D", "tab:purple"),
    (r"qjl", "qjl", "<", "tab:pink"),
    (r"q\d", "ggml", "s", "tab:red"),
    (r"mixed", "mixed", "p", "navy"),
    (r"dual", "dual", "1", "teal"),
    (r"kivi|zscore", "kivi, zscore", "2", "magenta"),
    (r"int", "int", "X", "tab:brown"),
    (r"fp8", "fp8", "P", "tab:olive"),
    (r"stock:", "llama.cpp's own", "d", "black"),
    (r"", "others", "*", "tab:gray"),
]
LEGENDS = {"distortion": "lower left", "divergence": "upper right", "layers": "best"}
MOST_BITS = 9  # beyond lie 16 and 32 bits, which would squeeze the rest


def fail(message: str) -> NoReturn:
    sys.exit(f"polarquant.plots: {message}")


def pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        fail("there is no matplotlib for this Python; pip install 'polarquant[plots]'")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "polarquant"  # the same picture gives the same bytes
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    return pyplot


def family(name: str) -> tuple[str, str, str]:
    return next((*rest,) for pattern, *rest in FAMILIES if re.match(pattern, name))


def scatter(
    axes: Any, points: Iterable[Point], named: Callable[[float], bool] = lambda x: True
) -> None:
    """Points whose x is `named` have their names beside them."""
    points = list(points)
    for label, marker, colour in (rest for _, *rest in FAMILIES):
        members = [point for point in points if family(point[0])[0] == label]
        if not members:
            continue
        axes.scatter(
            [x for _, x, _ in members],
            [y for _, _, y in members],
            marker=marker,
            color=colour,
            label=label,
            s=30,
            zorder=3,
        )
        for name, x, y in members:
            if named(x):
                axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=6)


def pareto(points: Iterable[Point]) -> list[Point]:
    """Those that no other point beats in both, by growing x: less is better."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p[1], p[2])):
        if not front or point[2] < front[-1][2]:
            front.append(point)
    return front


def draw_distortion(report: dict[str, Any], figure: Any) -> None:
    rows = [row for row in report["codecs"] if row["bits_per_value"] <= MOST_BITS]
    if not rows:
        fail(f"no codec of this file has at most {MOST_BITS} bits a value")
    points = [(row["scheme"], row["bits_per_value"], -row["sqnr_db"]) for row in rows]
    decibels = 20 * math.log10(2)
    # Everything, and the part where most codecs are, with their names.
    crowded = 4.6
    for axes, most in zip(figure.subplots(1, 2), (MOST_BITS, crowded), strict=True):
        scatter(
            axes,
            [point for point in points if point[1] <= most],
            lambda x, most=most: x > crowded or most == crowded,
        )
        axes.plot(
            [0, most],
            [0, -decibels * most],
            color="black",
            linewidth=1,
            label="Shannon's bound for Gaussian rows",
        )
        axes.set_xlabel("bits a value, everything counted")
        axes.set_ylabel("D, dB")
    axes.set_xlim(0.9, 4.9)
    axes.set_ylim(-26, 0)
    figure.suptitle(
        f"Distortion of {report['rows']} rows of {report['head_dim']} values, {report['data']}"
    )


def short(kv: str) -> str:
    """Balance is a star, and values of the same codec go without saying."""
    keys, _, values = kv.replace(":balanced", "*").replace(":balance:center", "*").partition("/")
    return keys if values in ("", keys.rstrip("*")) else f"{keys}/{values}"


def draw_divergence(report: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    # bench/family.py says what closed pages take; else the window counts.
    of_pages = all("page_bits" in row for row in report["runs"])
    bits = "page_bits" if of_pages else "bits_per_value"
    points = [
        (short(row["kv"]), row[bits], row["kl_mean"])
        for row in report["runs"]
        if 0 < row["kl_mean"] < 1 and row[bits] <= MOST_BITS
    ]
    if not points:
        fail("no run of this file differs from the 16-bit cache")
    scatter(axes, points)
    front = pareto(points)
    axes.plot(
        [x for _, x, _ in front],
        [y for _, _, y in front],
        color="grey",
        linewidth=1,
        label="Pareto front",
    )
    axes.axhline(
        report["floor"]["kl_mean"],
        color="black",
        linestyle=":",
        linewidth=1,
        label="16 bits, other micro-batches",
    )
    axes.set_yscale("log")
    axes.set_xlabel(
        "bits a value of "
        + (
            "closed pages, headers counted"
            if of_pages
            else "the resident cache, everything counted"
        )
    )
    axes.set_ylabel("mean KL divergence from the 16-bit cache, nats")
    axes.set_title(f"{report['tokens_scored']} tokens scored; * is balanced keys")


def draw_gains(report: dict[str, Any], figure: Any) -> None:
    steps = list(report["mean_gain_db"])
    layers = [row["layer"] for row in report["layers"]]
    heads = max(row["num_kv_heads"] for row in report["layers"])
    gains = {
        step: [
            [
                row["gain_db"][step][head] if head < row["num_kv_heads"] else math.nan
                for row in report["layers"]
            ]
            for head in range(heads)
        ]
        for step in steps
    }
    most = max(abs(gain) for rows in gains.values() for row in rows for gain in row if gain == gain)
    panels = figure.subplots(len(steps), 1, sharex=True, squeeze=False)[:, 0]
    for axes, step in zip(panels, steps, strict=True):
        image = axes.imshow(
            gains[step], cmap="RdBu", vmin=-most, vmax=most, aspect="auto", interpolation="nearest"
        )
        axes.set_title(f"{step}: {report['mean_gain_db'][step]:.1f} dB in the mean", fontsize=9)
        axes.set_ylabel("kv_head")
        axes.set_yticks(range(heads))
    panels[-1].set_xticks(range(len(layers)), [str(layer) for layer in layers], fontsize=7)
    panels[-1].set_xlabel("layer")
    figure.colorbar(image, ax=list(panels), label="dB off the error of logits, predicted")
    figure.suptitle(f"{report['model']}, {report['tokens']} tokens of {report['text']}")


def read_capture(path: str) -> dict[str, dict[int, Any]]:
    """The tensors [kv_head][token][head_dim] of a captured model, by role and layer."""
    try:
        from safetensors.numpy import load_file
    except ImportError:
        fail("there is no safetensors for this Python; pip install 'polarquant[plots]'")
    try:
        tensors = load_file(path)
    except Exception as error:  # its own errors have no base of their own
        fail(f"cannot read {path}: {error}")
    rows: dict[str, dict[int, Any]] = {"key": {}, "value": {}}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"layer\.(\d+)\.(key|value)", name)
        if match and tensor.ndim == 3:
            rows[match[2]][int(match[1])] = tensor
    if not any(rows.values()):
        fail(f"{path} has no tensors layer.N.key or layer.N.value; make it with polarquant capture")
    return rows


def error_by_layer(scheme: str, role: str, layers: dict[int, Any]) -> dict[int, float]:
    """D of each layer, the energy of the error over that of the rows, in dB."""
    import numpy as np

    from polarquant import Codec

    errors = {}
    for layer, rows in sorted(layers.items()):
        codec = Codec(scheme, rows.shape[-1], role)
        rows = rows.astype(np.float32)
        error = codec.decode(codec.encode(rows)) - rows
        energy = np.sum(np.square(rows, dtype=np.float64))
        lost = np.sum(np.square(error, dtype=np.float64))
        errors[layer] = 10 * math.log10(lost / energy) if lost > 0 and energy > 0 else -math.inf
    return errors


def draw_layers(path: str, schemes: list[str], figure: Any) -> None:
    from polarquant import Error

    rows = {role: layers for role, layers in read_capture(path).items() if layers}
    for axes, (role, layers) in zip(
        figure.subplots(1, len(rows), sharey=True, squeeze=False)[0], rows.items(), strict=True
    ):
        for scheme in schemes:
            try:
                errors = error_by_layer(scheme, role, layers)
            except Error as error:
                fail(f"{role}s as {scheme}: {error}")
            axes.plot(list(errors), list(errors.values()), marker="o", markersize=3, label=scheme)
        axes.set_title(f"{role}s")
        axes.set_xlabel("layer")
    figure.axes[0].set_ylabel("D, dB")
    tokens = next(iter(next(iter(rows.values())).values())).shape[1]
    figure.suptitle(f"Error of the rows of each layer, {tokens} tokens")


def draw_report(options: argparse.Namespace, figure: Any) -> None:
    draw, key, command = {
        "distortion": (draw_distortion, "codecs", "polarquant codecs"),
        "divergence": (draw_divergence, "runs", "polarquant perplexity"),
        "gains": (draw_gains, "mean_gain_db", "polarquant profile"),
    }[options.chart]
    try:
        with open(options.file, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        fail(f"cannot read {options.file}: {error}")
    if key not in report:
        fail(f'{options.file} has no "{key}"; make it with {command} --json')
    draw(report, figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m polarquant.plots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("chart", choices=["distortion", "divergence", "gains", "layers"])
    parser.add_argument("file", help="what the command wrote with --json, or captured rows")
    parser.add_argument("-o", "--output", required=True, help="the picture")
    parser.add_argument(
        "--scheme", action="append", metavar="NAME", help="layers: draw it; may be repeated"
    )
    options = parser.parse_args(arguments)
    if bool(options.scheme) != (options.chart == "layers"):
        parser.error("`layers` needs --scheme, the other charts have none")
    constrained = options.chart == "gains"  # colour bars do not go with tight_layout
    figure = pyplot().figure(figsize=(12, 6), layout="constrained" if constrained else None)
    if options.chart == "layers":
        draw_layers(options.file, options.scheme, figure)
    else:
        draw_report(options, figure)
    if not constrained:
        for axes in figure.axes:
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7, loc=LEGENDS[options.chart])
        figure.tight_layout()
    figure.savefig(
        options.output, metadata={"Date": None} if options.output.endswith(".svg") else None
    )


if __name__ == "__main__":
    main()
