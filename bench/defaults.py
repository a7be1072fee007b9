#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what the defaults were chosen by: one table for each question.

  bench/defaults.py -m MODEL -f TEXT [--polarquant PROGRAM] [--question NAME ...] [--json FILE]

Every question is one run of `polarquant perplexity`: all its caches read the same tokens in the
same process. Prints Markdown.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile


def cache(name, key, value, window=128, sinks=16, page_tokens=128, layers=()):
    policy = {"key": key, "value": value, "window": window, "sinks": sinks,
              "page_tokens": page_tokens, "layers": list(layers)}
    return name, policy


def edges(first, last, key, value):
    return [{"first": 0, "last": first - 1, "key": key, "value": value},
            {"first": -last, "last": -1, "key": key, "value": value}]


def questions():
    balanced = "turbo{}:balanced".format
    rules = [":scale=mse", ":scale=norm", ""]
    yield "pages", [cache(f"pages of {n}", balanced(4), "turbo4", page_tokens=n, window=w)
                    for w in (0, 128) for n in (64, 128, 256)]
    yield "key-scale", [cache(f"K {balanced(b)}{r}", balanced(b) + r, "f16")
                        for b in (2, 3, 4) for r in rules]
    yield "value-scale", [cache(f"V turbo{b}{r}", "f16", f"turbo{b}{r}")
                          for b in (2, 3, 4) for r in rules]
    yield "window", [cache(f"window {w}, sinks {s}", balanced(4), "turbo4", window=w, sinks=s)
                     for w in (32, 64, 128, 256) for s in (0, 4, 16)]
    yield "center-values", [cache(f"V {v}", balanced(b), v) for b in (3, 4)
                            for v in (f"turbo{b}", f"turbo{b}:center")]
    yield "rope", [cache(k, k, "turbo4") for k in
                   ("turbo4", "turbo4:center", "turbo4:center=step", "turbo4:balance",
                    "turbo4:balance:center", *(f"turbo4:balanced:step={n}" for n in (16, 32, 128)),
                    "turbo4:balanced")]
    yield "edges", [cache("no exception", balanced(3), "turbo3"),
                    cache("first 2 layers at 4 bits", balanced(3), "turbo3",
                          layers=edges(2, 1, balanced(4), "turbo4")[:1]),
                    cache("first 2 and last 2 at 4 bits", balanced(3), "turbo3",
                          layers=edges(2, 2, balanced(4), "turbo4")),
                    cache("first 2 and last 2 at 8 bits", balanced(3), "turbo3",
                          layers=edges(2, 2, "q8_0", "q8_0"))]
    yield "bits", [cache(f"K {k} V {v}", balanced(k), f"turbo{v}")
                   for k in (2, 3, 4, 5, 6) for v in (2, 3, 4, 5) if abs(k - v) <= 2]
    yield "row-scale", [cache(f"{k} {v}", f"{k}:balanced", v) for b in (3, 4)
                        for k, v in ((f"turbo{b}", f"turbo{b}"), (f"turbo{b}s8", f"turbo{b}s8"))]
    yield "maps", [cache(f"K {k}", k, "f16", window=w) for w in (0, 128)
                   for k in ("turbo2:balanced", "turbo2:dense", "mixed2:balanced", "mixed2:dense",
                             "mixed2.5:balanced", "mixed2.5:dense", "turbo3:balanced",
                             "turbo3:dense", "mixed3:balanced", "mixed3:dense")]


def measure(options, name, caches):
    with tempfile.TemporaryDirectory() as folder:
        command = [options.polarquant, "perplexity", "-m", options.model, "-f", options.file,
                   "-c", str(options.ctx_size), "--chunks", str(options.chunks),
                   "--expand-weights", "--kv", "stock:q4_0", "--json"]
        names = {}
        for index, (label, policy) in enumerate(caches):
            path = pathlib.Path(folder) / f"{index:02}.json"
            path.write_text(json.dumps(policy))
            names[path.name] = label
            command += ["--policy", str(path)]
        print(f"== {name}", file=sys.stderr, flush=True)
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for run in report["runs"]:
        run["name"] = names.get(run["kv"], run["kv"])
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-f", "--file", required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=2048)
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--polarquant", default="build/release/bin/polarquant")
    parser.add_argument("--question", action="append", choices=[name for name, _ in questions()])
    parser.add_argument("--json")
    options = parser.parse_args()
    reports = {}
    for name, caches in questions():
        if options.question and name not in options.question:
            continue
        report = reports[name] = measure(options, name, caches)
        print(f"\n### {name}\n\n| cache | bits/value | KL mean | KL 99.9 % | top-1 |\n"
              "| --- | --- | --- | --- | --- |")
        for run in report["runs"][1:]:
            print(f"| {run['name']} | {run['bits_per_value']:.2f} | {run['kl_mean']:.5f} | "
                  f"{run['kl_p999']:.4f} | {100 * run['top1']:.1f} % |", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
