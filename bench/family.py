#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One table: every codec as a cache of a model, plain and balanced, beside llama.cpp's own.

  bench/family.py -m MODEL -f TEXT [-c 2048] [--chunks 1] [--window 0] [--json FILE]

Runs `polarquant perplexity` over a few caches at a time, each run with the 16-bit cache it compares
with. Takes half an hour on two cores; --at-once N runs N at a time, with a share of the threads.
Prints Markdown, sorted by the bits of closed pages, and writes what
`python -m polarquant.plots divergence` draws (after every run, so that a table cut short is still a
table).
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

CACHES_OF_A_RUN = 12  # at most: each run measures the 16-bit cache again, twice
STOCK = ["stock:q4_0", "stock:q8_0"]
VALUES = "turbo4"  # beside codecs that store none


def call(program, *arguments):
    process = subprocess.run([program, *map(str, arguments), "--json"], capture_output=True,
                             text=True)
    if process.returncode != 0:
        sys.exit(f"family.py: {' '.join(map(str, arguments))}: {process.stderr[-1000:]}")
    return json.loads(process.stdout)


def caches(program):
    """Every codec below 16 bits, and those that `schemes` lists balanced."""
    names = []
    listed = call(program, "schemes", "--head-dim", 64)["schemes"]
    balanced = {each["name"] for each in listed if each["name"].endswith(":balanced")}
    for each in listed:
        name = each["name"]
        if ":" in name or name in ("f32", "f16", "bf16"):
            continue
        names.append(name if "values" in each["roles"] else f"{name}/{VALUES}")
        if f"{name}:balanced" in balanced or name == "q8_0":
            names.append(f"{name}:balanced/{name}")
    return names


KNOWN_BITS = {}


def page_bits(program, cache, head_dim):
    """Of closed pages, keys and values together; balance is a matter of the profile, not of bits."""
    pair = (cache.split("/") * 2)[:2]
    for scheme, role in zip(pair, ("key", "value")):
        if (scheme, role) not in KNOWN_BITS:
            measured = call(program, "codecs", "--codec", scheme.replace(":balanced", ":center"),
                            "--head-dim", head_dim, "--vectors", 128, "--role", role)
            KNOWN_BITS[scheme, role] = measured["codecs"][0]["bits_per_value"]
    return sum(KNOWN_BITS[scheme, role] for scheme, role in zip(pair, ("key", "value"))) / 2


def merge(report, more):
    """Both of the same text."""
    measured = {run["kv"] for run in report["runs"]}
    report["runs"] += [run for run in more["runs"] if run["kv"] not in measured]


def add_page_bits(report, program, head_dim):
    for run in report["runs"]:
        kv = run["kv"]
        if kv.startswith("stock:"):
            run["page_bits"] = run["bits_per_value"]
        else:
            run["page_bits"] = page_bits(program, kv, head_dim)


def show(report):
    print("| cache | bits | resident | KL mean | KL 99.9 % | top-1 | PPL |\n"
          "| --- | --- | --- | --- | --- | --- | --- |")
    for run in sorted(report["runs"], key=lambda run: (run["page_bits"], run["kl_mean"])):
        print(f"| `{run['kv']}` | {run['page_bits']:.2f} | {run['bits_per_value']:.2f} | "
              f"{run['kl_mean']:.5f} | {run['kl_p999']:.4f} | {100 * run['top1']:.1f} % | "
              f"{run['ppl']:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-f", "--file", required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=2048)
    parser.add_argument("--chunks", type=int, default=1)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--head-dim", type=int, default=64, help="of the model, for the bits")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--polarquant", default="build/release/bin/polarquant")
    parser.add_argument("--json")
    options = parser.parse_args()
    wanted = STOCK + caches(options.polarquant)
    waves = -(-len(wanted) // (CACHES_OF_A_RUN * options.at_once))
    runs = waves * options.at_once
    groups = [wanted[i::runs] for i in range(runs)]
    threads = max(1, len(os.sched_getaffinity(0)) // options.at_once)

    def measure(group, context=options.ctx_size, chunks=options.chunks):
        arguments = [word for kv in group for word in ("--kv", kv)]
        report = call(options.polarquant, "perplexity", "-m", options.model, "-f", options.file,
                      "-c", context, "--chunks", chunks, "--window", options.window,
                      "--expand-weights", "-t", threads, *arguments)
        print(f"family: measured {', '.join(group)}", file=sys.stderr, flush=True)
        return report

    measure(["turbo4:balanced/turbo4"], 256, 1)  # makes the profile and the expanded weights, once
    report = {}
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        for run in concurrent.futures.as_completed([pool.submit(measure, g) for g in groups]):
            report = report or dict(run.result(), runs=[], model=pathlib.Path(options.model).name)
            merge(report, run.result())
            if options.json:
                add_page_bits(report, options.polarquant, options.head_dim)
                pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    add_page_bits(report, options.polarquant, options.head_dim)
    show(report)


if __name__ == "__main__":
    main()
