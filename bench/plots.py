#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what the commands measured, as SVG (or whatever the name of the picture ends with).

  polarquant codecs --head-dim 128 --json codecs.json
  bench/plots.py distortion codecs.json -o distortion.svg

  polarquant perplexity -m MODEL -f TEXT --kv turbo4 --kv turbo3 --json perplexity.json
  bench/family.py -m MODEL -f TEXT --json perplexity.json    # or all codecs
  bench/plots.py divergence perplexity.json -o divergence.svg

`distortion`: the error of rows in dB against bits a value, with Shannon's bound for Gaussian rows.
`divergence`: the mean KL divergence from the 16-bit cache against bits a value, with the Pareto
front: the caches that no other one beats in both.

Needs matplotlib: `scripts/packages.sh plots` installs Debian's, `pip install matplotlib` another.
"""

import argparse
import json
import math
import re
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("plots.py: there is no matplotlib for this Python; run scripts/packages.sh plots and "
             "use /usr/bin/python3, or pip install matplotlib")

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "polarquant"  # the same picture gives the same bytes
matplotlib.rcParams["svg.fonttype"] = "none"
from matplotlib import pyplot  # noqa: E402, the backend must be chosen first

# A codec's family by what its name matches first, with marker and colour.
FAMILIES = [(r"turbo\d_0", "blocks of a fork", "h", "tab:orange"),
            (r"turboprod", "turboprod", "v", "tab:cyan"), (r"turbo", "turbo", "o", "tab:blue"),
            (r"trellis", "trellis", "^", "tab:green"), (r"e8", "E8", "D", "tab:purple"),
            (r"qjl", "qjl", "<", "tab:pink"), (r"q\d", "ggml", "s", "tab:red"),
            (r"mixed", "mixed", "p", "navy"), (r"dual", "dual", "1", "teal"),
            (r"kivi|zscore", "kivi, zscore", "2", "magenta"), (r"int", "int", "X", "tab:brown"), (r"fp8", "fp8", "P", "tab:olive"),
            (r"stock:", "llama.cpp's own", "d", "black"), (r"", "others", "*", "tab:gray")]
MOST_BITS = 9  # beyond lie 16 and 32 bits, which would squeeze the rest


def family(name):
    return next(rest for pattern, *rest in FAMILIES if re.match(pattern, name))


def scatter(axes, points, named=lambda x: True):
    """`points` are (name, x, y); those whose x is `named` have their names beside them."""
    for label, marker, colour in (rest for _, *rest in FAMILIES):
        members = [point for point in points if family(point[0])[0] == label]
        if not members:
            continue
        axes.scatter([x for _, x, _ in members], [y for _, _, y in members], marker=marker,
                     color=colour, label=label, s=30, zorder=3)
        for name, x, y in members:
            if named(x):
                axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=6)


def pareto(points):
    """Those that no other point beats in both, by growing x: less is better."""
    front = []
    for point in sorted(points, key=lambda p: (p[1], p[2])):
        if not front or point[2] < front[-1][2]:
            front.append(point)
    return front


def draw_distortion(report, figure):
    rows = [row for row in report["codecs"] if row["bits_per_value"] <= MOST_BITS]
    if not rows:
        sys.exit(f"plots.py: no codec of this file has at most {MOST_BITS} bits a value")
    points = [(row["scheme"], row["bits_per_value"], -row["sqnr_db"]) for row in rows]
    decibels = 20 * math.log10(2)
    # Everything, and the part where most codecs are, with their names.
    crowded = 4.6
    for axes, most in zip(figure.subplots(1, 2), (MOST_BITS, crowded)):
        scatter(axes, [point for point in points if point[1] <= most],
                lambda x, most=most: x > crowded or most == crowded)
        axes.plot([0, most], [0, -decibels * most], color="black", linewidth=1,
                  label="Shannon's bound for Gaussian rows")
        axes.set_xlabel("bits a value, everything counted")
        axes.set_ylabel("D, dB")
    axes.set_xlim(0.9, 4.9)
    axes.set_ylim(-26, 0)
    figure.suptitle(f"Distortion of {report['rows']} rows of {report['head_dim']} values, "
                    f"{report['data']}")


def short(kv):
    """Balance is a star, and values of the same codec go without saying."""
    keys, _, values = kv.replace(":balanced", "*").partition("/")
    return keys if values in ("", keys.rstrip("*")) else f"{keys}/{values}"


def draw_divergence(report, figure):
    axes = figure.subplots()
    # bench/family.py says what closed pages take; else the window counts.
    of_pages = all("page_bits" in row for row in report["runs"])
    bits = "page_bits" if of_pages else "bits_per_value"
    points = [(short(row["kv"]), row[bits], row["kl_mean"]) for row in report["runs"]
              if 0 < row["kl_mean"] < 1 and row[bits] <= MOST_BITS]
    if not points:
        sys.exit("plots.py: no run of this file differs from the 16-bit cache")
    scatter(axes, points)
    front = pareto(points)
    axes.plot([x for _, x, _ in front], [y for _, _, y in front], color="grey", linewidth=1,
              label="Pareto front")
    axes.axhline(report["floor"]["kl_mean"], color="black", linestyle=":", linewidth=1,
                 label="16 bits, other micro-batches")
    axes.set_yscale("log")
    axes.set_xlabel("bits a value of " + ("closed pages, headers counted" if of_pages else
                                          "the resident cache, everything counted"))
    axes.set_ylabel("mean KL divergence from the 16-bit cache, nats")
    axes.set_title(f"{report['tokens_scored']} tokens scored; * is balanced keys")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chart", choices=["distortion", "divergence"])
    parser.add_argument("json", help="what the command wrote with --json")
    parser.add_argument("-o", "--output", required=True, help="the picture")
    options = parser.parse_args()
    draw, key, command, legend = {
        "distortion": (draw_distortion, "codecs", "polarquant codecs", "lower left"),
        "divergence": (draw_divergence, "runs", "polarquant perplexity", "upper right"),
    }[options.chart]
    try:
        with open(options.json, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"plots.py: cannot read {options.json}: {error}")
    if key not in report:
        sys.exit(f"plots.py: {options.json} has no \"{key}\"; make it with {command} --json")
    figure = pyplot.figure(figsize=(12, 6))
    draw(report, figure)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc=legend)
    figure.tight_layout()
    figure.savefig(options.output, metadata={"Date": None} if options.output.endswith(".svg")
                   else None)


if __name__ == "__main__":
    main()
