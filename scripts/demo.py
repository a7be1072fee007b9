#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `make demo` shows: stock llama.cpp programs with their own 16-bit cache and with ours.

Five steps, each of which fails aloud:
  profile   what balanced keys need to know of the model, made once and kept
  exact     200 greedy tokens through our f16 scheme are, letter for letter, those of stock
  answers   a question about a long text, with stock f16 and with turbo4/turbo3
  depth     the essay fills the cache of llama-completion; memory and decoding speed there
  fidelity  `polarquant perplexity`: perplexity and KL divergence against the 16-bit cache
Prints one table and the answers, and writes them as JSON.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time

STOCK = "stock:f16"
ANSWER = "turbo4/turbo3"
CACHES = ["turbo4:balanced/turbo4", "turbo3:balanced/turbo3", "turbo4:center/turbo4",
          "turbo4/turbo4", "turbo4/turbo3"]
CONTEXT = 8192
DECODED = 64  # tokens decoded at depth
FIDELITY_CONTEXT = 2048
QUESTION = ("Who built the fourth bridge at Thornby, and what was his trade? Answer in one "
            "sentence.")

START = time.monotonic()


def say(text):
    print(f"== {text}  ({time.monotonic() - START:.0f} s)", flush=True)


def fail(text):
    sys.exit(f"error: {text}")


class Demo:
    def __init__(self, options):
        self.options = options
        self.command = options.build / "bin" / "polarquant"
        self.plugin = options.build / "lib" / "libggml-polarquant.so"
        self.llama = options.llama
        self.essay = options.text.read_text(encoding="utf-8")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polarquant-demo."))
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(("POLARQUANT_", "LLAMA_ARG_", "GGML_"))}
        self.threads = str(len(os.sched_getaffinity(0)))

    def run(self, command, env=None):
        process = subprocess.run([str(word) for word in command], env=env or self.env, text=True,
                                 errors="replace", capture_output=True, stdin=subprocess.DEVNULL)
        if process.returncode != 0:
            tail = "\n".join(process.stderr.splitlines()[-15:])
            fail(f"{' '.join(map(str, command))} ended with {process.returncode}\n{tail}")
        return process

    def completion(self, prompt, tokens, *more, before=(), env=None):
        """Greedy text of llama-completion and its own log."""
        path = self.folder / "prompt.txt"
        path.write_text(prompt, encoding="utf-8")
        process = self.run([*before, self.llama / "llama-completion", "-m", self.options.model,
                            "-f", path, "-n", tokens, "-no-cnv", "--temp", "0", "--seed", "1",
                            "--no-display-prompt", "--no-warmup", "-t", self.threads, "-c",
                            CONTEXT, *more], env)
        return process.stdout, process.stderr

    def through(self, kv):
        """The words before a stock program that give it our cache."""
        return [self.command, "--plugin", self.plugin, "run", "--kv", kv, "--quiet", "--"]

    # -- The steps.

    def find_profile(self):
        say("the model's profile")
        path = json.loads(self.run([self.command, "--plugin", self.plugin, "tune", "-m",
                                    self.options.model, "-t", self.threads, "--if-missing",
                                    "--json"]).stdout)["file"]
        print(f"   {path}")
        return path

    def check_exact(self):
        say("200 greedy tokens through the f16 scheme, against stock")
        prompt = self.essay[:3000]
        stock, _ = self.completion(prompt, 200, "--ignore-eos")
        ours, _ = self.completion(prompt, 200, "--ignore-eos", before=self.through("f16"))
        if stock != ours:
            fail("the f16 scheme says something else than stock llama.cpp; this is a bug:\n"
                 f"stock: {stock}\nours:  {ours}")
        print(f"   identical ({len(stock)} characters)")
        return True

    def ask(self):
        say(f"a question about a long text: stock f16, then {ANSWER}")
        text = self.essay[self.essay.index("IV. "):self.essay.index("VI. ")]
        prompt = (f"<|im_start|>user\n{text.strip()}\n\n{QUESTION}<|im_end|>\n"
                  "<|im_start|>assistant\n")
        answers = []
        for kv, before in ((STOCK, ()), (ANSWER, self.through(ANSWER))):
            text, _ = self.completion(prompt, 120, before=before)
            answers.append({"kv": kv, "question": QUESTION,
                            "answer": text.replace("[end of text]", "").strip()})
        return answers

    def measure_depth(self):
        """Decoding speed and resident bytes with the cache filled by the essay.

        Stock f16 reads the essay once and saves its state (llama-completion --prompt-cache); every
        cache starts from that state, whose rows ours then encodes. So all decode at the same depth
        after the same past.
        """
        state = self.saved_state()
        runs = {}
        for kv in [STOCK, *CACHES]:
            say(f"decoding at depth: {kv}")
            env, events = dict(self.env), self.folder / "events.jsonl"
            if kv != STOCK:
                events.unlink(missing_ok=True)
                env.update(GGML_BACKEND_PATH=str(self.plugin), LLAMA_ARG_DEVICE="POLARQUANT",
                           POLARQUANT_KV=kv, POLARQUANT_PROFILE=self.profile,
                           POLARQUANT_STATUS=str(events))
            _, log = self.completion(self.essay, DECODED, "--ignore-eos", "--prompt-cache", state,
                                     "--prompt-cache-ro", env=env)
            found = re.search(r" eval time =.*?/ +(\d+) runs.*?([0-9.]+) tokens per second", log)
            if not found or int(found.group(1)) < DECODED - 1:
                fail(f"llama-completion printed no decoding speed:\n{log[-2000:]}")
            runs[kv] = {"kv": kv, "decode_tokens_per_second": float(found.group(2))}
            if kv != STOCK:
                runs[kv].update(self.memory_of(events, kv))
        # Stock has no figure of its own but the whole buffer; what the filled cells take is exact.
        one = runs[CACHES[0]]
        runs[STOCK].update(bits_per_value=16.0, kv_resident_bytes=one["f16_bytes"],
                           f16_bytes=one["f16_bytes"], depth=one["depth"])
        return runs

    def saved_state(self):
        key = hashlib.sha256()
        for part in (str(self.options.model), str(self.options.model.stat().st_size),
                     str(self.llama.resolve()), self.essay):
            key.update(part.encode())
        state = self.options.cache / f"essay-{key.hexdigest()[:16]}.state"
        if not state.is_file():
            say("stock f16 reads the essay once, its state is kept in the cache folder")
            state.parent.mkdir(parents=True, exist_ok=True)
            part = state.with_suffix(".part")
            part.unlink(missing_ok=True)
            self.completion(self.essay, 1, "--prompt-cache", part)
            part.rename(state)
        return state

    @staticmethod
    def memory_of(events, kv):
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        causes = [line["cause"] for line in lines if line["event"] in ("bypass", "refused")]
        if causes or lines[-1]["event"] != "exit":
            fail(f"{kv}: the plug-in reports {causes or lines[-1]}")
        last = lines[-1]
        return {"window": last["window"], "sinks": last["sinks"], "depth": last["filled_cells"],
                "bits_per_value": last["bits_per_value"], "f16_bytes": last["f16_bytes"],
                "kv_resident_bytes": last["kv_resident_bytes"]}

    def measure_fidelity(self):
        say(f"perplexity and KL divergence, {FIDELITY_CONTEXT} tokens of the essay")
        kvs = [word for kv in [*CACHES, "stock:q4_0"] for word in ("--kv", kv)]
        command = [self.command, "--plugin", self.plugin, "perplexity", "-m", self.options.model,
                   "-f", self.options.text, "-c", FIDELITY_CONTEXT, "--chunks", "1",
                   "--expand-weights", "-t", self.threads, *kvs, "--json"]
        return json.loads(self.run(command).stdout)


def merge(depth, fidelity):
    """One entry a cache: fidelity from the perplexity run, memory and speed from the filled one."""
    runs = []
    for entry in fidelity["runs"]:
        run = {key: entry[key] for key in ("kv", "window", "sinks", "bits_per_value",
                                           "kv_resident_bytes", "ppl", "kl_mean", "kl_p99",
                                           "kl_p999", "kl_max", "top1", "tokens_per_second")}
        label = run["kv"] if "/" in run["kv"] or ":" in run["kv"] else f"{run['kv']}/{run['kv']}"
        at_depth = depth.get(label) or depth.get(run["kv"])
        if at_depth:
            run.update({key: value for key, value in at_depth.items() if key != "kv"})
        else:
            run.update(bits_per_value=None, kv_resident_bytes=None)  # not filled to that depth
        runs.append(run)
    missing = set(depth) - {run["kv"] for run in runs if "depth" in run} - {
        f"{run['kv']}/{run['kv']}" for run in runs if "depth" in run}
    if missing:
        fail(f"perplexity reports nothing for {sorted(missing)}")
    return runs


def print_table(runs, floor):
    depth = max(run.get("depth", 0) for run in runs)
    print(f"\nKV resident and decoding speed with {depth} tokens in the cache; "
          f"the rest over {FIDELITY_CONTEXT} tokens, 16-bit weights.\n")
    rows = [("cache", "bits/value", "KV MiB", "x f16", "tokens/s", "PPL", "KL mean", "KL 99.9 %",
             "top-1")]
    reference = next(run for run in runs if run["kv"] == STOCK)

    def number(value, form):
        return "-" if value is None else format(value, form)

    for run in runs:
        resident = run["kv_resident_bytes"]
        rows.append((run["kv"], number(run["bits_per_value"], ".2f"),
                     number(resident and resident / 2**20, ".1f"),
                     number(resident and resident / reference["kv_resident_bytes"], ".3f"),
                     number(run.get("decode_tokens_per_second"), ".1f"), number(run["ppl"], ".3f"),
                     number(run["kl_mean"], ".5f"), number(run["kl_p999"], ".4f"),
                     number(run["top1"], ".2%")))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
        print("  ".join(cells))
    print(f"floor: stock f16 against itself at another micro-batch size, KL mean {floor:.5f}")


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description="The measurements of make demo.")
    for name in ("model", "llama", "build", "text", "cache", "json"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    options = parser.parse_args()
    demo = Demo(options)

    demo.profile = demo.find_profile()
    exact = demo.check_exact()
    answers = demo.ask()
    depth = demo.measure_depth()
    fidelity = demo.measure_fidelity()
    runs = merge(depth, fidelity)
    print_table(runs, fidelity["floor"]["kl_mean"])
    for answer in answers:
        print(f"\n[{answer['kv']}] {answer['question']}\n{answer['answer']}")

    report = {"model": options.model.name, "cpu": cpu_name(), "threads": int(demo.threads),
              "date": datetime.date.today().isoformat(), "context": FIDELITY_CONTEXT,
              "floor": {"kl_mean": fidelity["floor"]["kl_mean"]},
              "f16_identical_tokens": 200 if exact else 0, "runs": runs, "answers": answers}
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {options.json} after {time.monotonic() - START:.0f} s")


if __name__ == "__main__":
    main()
