#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One table: every codec as a cache of a model, plain and balanced, beside llama.cpp's own.

  bench/family.py -m MODEL -f TEXT [-c 2048] [--chunks 1] [--window 0] [--json FILE]
  bench/family.py --show FILE...

Runs `polarquant perplexity` over a few caches at a time, each run with the 16-bit cache it compares
with. Takes half an hour on two cores; --at-once N runs N at a time, with a share of the threads.
Prints Markdown, sorted by the bits of closed pages, and writes what
`python -m polarquant.plots divergence` draws (after every run, so that a table cut short is still a
table). What FILE has already, of the same model and context, is not measured again.

--show measures nothing. Of the files of one or more models, with one or more windows, it prints a
table a model, the Pareto fronts of KL against bits, and what is best at most so many bits: of all
caches, and of those that kernels read without decoding.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

CACHES_OF_A_RUN = 12  # at most: each run measures the 16-bit cache again, twice
STOCK = ["stock:q4_0", "stock:q8_0"]
VALUES = "turbo4"  # beside codecs that store none
# Keys need more bits than values.
PAIRS = [f"{key}:balanced/{value}" for key, value in (
    ("turbo3", "turbo2"), ("turbo4", "turbo2"), ("turbo4", "turbo3"), ("turbo5", "turbo3"),
    ("mixed2.5", "mixed2"), ("mixed3", "mixed2"), ("mixed3", "mixed2.5"), ("mixed4", "mixed3"),
    ("mixed4", "turbo3"), ("turbo4", "mixed3"), ("trellis3", "trellis2"), ("trellis4", "trellis2"),
    ("trellis4", "trellis3"), ("q8_0", "turbo4"))]
BUDGETS = (2, 2.5, 3, 3.5, 4, 4.5)  # bits a value
FRONT_KL = 1  # beyond are answers that nobody wants


def call(program, *arguments):
    process = subprocess.run([program, *map(str, arguments), "--json"], capture_output=True,
                             text=True)
    if process.returncode != 0:
        sys.exit(f"family.py: {' '.join(map(str, arguments))}: {process.stderr[-1000:]}")
    return json.loads(process.stdout)


def caches(program):
    """Every codec below 16 bits, those that `schemes` lists balanced, and unlike pairs."""
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
    return names + PAIRS


KNOWN_BITS = {}


def page_bits(program, cache, head_dim):
    """Of closed pages, keys and values together; balance is of the profile and takes no bits."""
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


def load(files):
    """{model: {window: report}}, models as given, the widest window first, runs by cache. Says what
    the noise is."""
    models = {}
    for file in files:
        report = json.loads(pathlib.Path(file).read_text())
        runs = report["runs"] = {run["kv"]: run for run in report["runs"]}
        errors = [run["kl_mean_error"] / run["kl_mean"] for run in runs.values() if run["kl_mean"]]
        print(f"{file}: {len(runs)} caches, {report['tokens_scored']} tokens scored; floor "
              f"{report['floor']['kl_mean']:.5f}; standard error of a mean KL "
              f"{100 * min(errors):.0f} to {100 * max(errors):.0f} % of it, median "
              f"{100 * statistics.median(errors):.0f} %", file=sys.stderr)
        window = next(run["window"] for run in runs.values() if run["window"] is not None)
        models.setdefault(report["model"], {})[window] = report
    if len({frozenset(each["runs"]) for windows in models.values()
            for each in windows.values()}) != 1:
        sys.exit("family.py: the files must have the same caches")
    return {model: dict(sorted(windows.items(), reverse=True)) for model, windows in models.items()}


def short(model):
    name = model.split("-")[0]
    return name[0].upper() + name[1:]


def runs_of(windows):
    return [report["runs"] for report in windows.values()]


def by_bits(caches, runs):
    return sorted(caches, key=lambda kv: (runs[kv]["page_bits"], runs[kv]["kl_mean"]))


def head(*cells):
    print("\n| " + " | ".join(cells) + " |\n|" + " --- |" * len(cells))


def show_models(models):
    """In the order of the first one, so that rows can be compared."""
    order = None
    for model, windows in models.items():
        print(f"\n**{model}**")
        head("cache", "bits", *(f"{column}, {window}" for index, window in enumerate(windows)
                                for column in ("KL", "99.9 %", "top-1", "PPL")
                                if index == 0 or column != "PPL"))
        first = runs_of(windows)[0]
        order = order or by_bits(first, first)
        for kv in order:
            cells = [f"`{kv}`", f"{first[kv]['page_bits']:.2f}"]
            for runs in runs_of(windows):
                run = runs[kv]
                cells += [f"{run['kl_mean']:.5f}", f"{run['kl_p999']:.3f}",
                          f"{100 * run['top1']:.1f}"]
                cells += [f"{run['ppl']:.2f}"] * (runs is first)
            print("| " + " | ".join(cells) + " |")


def pareto(report):
    """Caches that no other one beats in both KL and bits, down to the floor."""
    front = []
    runs, floor = report["runs"], report["floor"]["kl_mean"]
    for kv in by_bits(runs, runs):
        if not front or max(runs[kv]["kl_mean"], floor) < runs[front[-1]]["kl_mean"]:
            front.append(kv)
    return [kv for kv in front if runs[kv]["kl_mean"] < FRONT_KL]


def show_fronts(models):
    """Every cache on a front, with its KL where it is."""
    fronts = {id(report): pareto(report) for windows in models.values()
              for report in windows.values()}
    head("cache", *(cell for model, windows in models.items() for cell in
                    (f"{short(model)} bits", *(f"KL, {window}" for window in windows))))
    order = runs_of(next(iter(models.values())))[0]
    for kv in by_bits({kv for front in fronts.values() for kv in front}, order):
        cells = [f"`{kv}`"]
        for windows in models.values():
            cells += [f"{runs_of(windows)[0][kv]['page_bits']:.2f}"]
            cells += [f"{report['runs'][kv]['kl_mean']:.5f}" if kv in fronts[id(report)] else ""
                      for report in windows.values()]
        print("| " + " | ".join(cells) + " |")


def best(caches, budget, measured):
    """The least product of the KLs, of what fits everywhere."""
    fitting = [kv for kv in caches if all(runs[kv]["page_bits"] <= budget for runs in measured)]
    return min(fitting, default=None,
               key=lambda kv: math.prod(runs[kv]["kl_mean"] for runs in measured))


def clearly_better(kv, other, measured):
    return all(runs[other]["kl_mean"] - runs[kv]["kl_mean"] >
               math.hypot(runs[kv]["kl_mean_error"], runs[other]["kl_mean_error"])
               for runs in measured)


def show_picks(models, caches):
    """The best for all models, and for one alone where that is clearly better."""
    head("at most", "cache", *(cell for model, windows in models.items() for cell in
                               (f"{short(model)} bits", *(f"KL, {window}" for window in windows))))

    def row(budget, kv):
        cells = [budget, f"`{kv}`" if kv else "none"]
        for windows in models.values():
            measured = runs_of(windows)
            cells += [f"{measured[0][kv]['page_bits']:.2f}" if kv else ""]
            cells += [f"{runs[kv]['kl_mean']:.4f}" if kv else "" for runs in measured]
        print("| " + " | ".join(cells) + " |")

    for budget in BUDGETS:
        common = best(caches, budget, [r for windows in models.values() for r in runs_of(windows)])
        row(f"{budget}", common)
        for model, windows in models.items():
            own = best(caches, budget, runs_of(windows))
            if own != common and (not common or clearly_better(own, common, runs_of(windows))):
                row(f"{budget}, {short(model)}", own)


def show_files(files, program):
    models = load(files)
    show_models(models)
    show_fronts(models)
    caches = list(runs_of(next(iter(models.values())))[0])
    fast = {each["name"] for each in call(program, "schemes", "--head-dim", 64)["schemes"]
            if each["fast_targets"]}
    show_picks(models, caches)
    show_picks(models, [kv for kv in caches if all(scheme.split(":")[0] in fast
                                                   for scheme in kv.split("/"))])


def name_of(model):
    return pathlib.Path(model).name


def resumed(options):
    """What --json has already, or None."""
    file = pathlib.Path(options.json) if options.json else None
    if not file or not file.exists():
        return None
    report = json.loads(file.read_text())
    windows = {run["window"] for run in report["runs"]} - {None}
    was = (report["model"], report["context"], report["chunks"], windows)
    now = (name_of(options.model), options.ctx_size, options.chunks, {options.window})
    if was != now:
        sys.exit(f"family.py: {file} has {was}, not {now}: give another file")
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model")
    parser.add_argument("-f", "--file")
    parser.add_argument("-c", "--ctx-size", type=int, default=2048)
    parser.add_argument("--chunks", type=int, default=1)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--head-dim", type=int, default=64, help="of the model, for the bits")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--polarquant", default="build/release/bin/polarquant")
    parser.add_argument("--json")
    parser.add_argument("--show", nargs="+", metavar="FILE", help="that --json wrote")
    options = parser.parse_args()
    if options.show:
        show_files(options.show, options.polarquant)
        return
    if not options.model or not options.file:
        parser.error("-m and -f are needed, or --show")
    report = resumed(options)
    done = {run["kv"] for run in report["runs"]} if report else set()
    wanted = [kv for kv in STOCK + caches(options.polarquant) if kv not in done]
    if not wanted:
        show(report)
        return
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
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        for run in concurrent.futures.as_completed([pool.submit(measure, g) for g in groups]):
            report = report or dict(run.result(), runs=[], model=name_of(options.model))
            merge(report, run.result())
            if options.json:
                add_page_bits(report, options.polarquant, options.head_dim)
                pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    add_page_bits(report, options.polarquant, options.head_dim)
    show(report)


if __name__ == "__main__":
    main()
