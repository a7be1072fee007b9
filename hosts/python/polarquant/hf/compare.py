# SPDX-License-Identifier: Apache-2.0
"""Every compressed cache there is for transformers, on the same model and text.

  python -m polarquant.hf.compare -m MODEL.gguf -f TEXT -c 2048 --chunk 64 --json compare.json
  python -m polarquant.hf.compare --plot compare.svg --json compare.json      # draw it again

The text is fed in pieces of --chunk tokens, the right ones whatever the model says, and the logits
of each cache are compared with those of DynamicCache: mean KL divergence in nats (kl_later: over
the last three quarters of the text, as `polarquant perplexity` counts) and its 99.9 % point, how
often the likeliest token agrees, perplexity. Bytes are what the cache holds at the end. Prefill is
the prompt of --context tokens at once into an empty cache; decode is --decode single tokens after
it.

Caches: dynamic; quanto4, quanto2 (needs optimum-quanto) and hqq4, hqq2 (needs hqq), the library's
QuantizedCache with its own defaults; ours as KEY/VALUE@packed (attention on packed pages) or
KEY/VALUE@decoded (torch's attention on decoded tensors). A peer that is not installed, or that
fails, is named and left out.

-m takes a GGUF file, a folder or a name of the hub, or `random`: weights without meaning for
speed at the shape of --random-shape.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, QuantizedCache

import polarquant
from polarquant.hf.balance import Profile
from polarquant.hf.cache import PolarQuantCache

PEERS = {"quanto": "optimum.quanto", "hqq": "hqq"}
OURS = [
    "turbo4:balance:center/turbo4@packed",
    "turbo4:balance:center/turbo4@decoded",
    "turbo3:balance:center/turbo3@packed",
    "turbo3:balance:center/turbo3@decoded",
]
DEFAULT = ["dynamic", "quanto4", "quanto2", "hqq4", "hqq2", *OURS]


def fail(message: str) -> NoReturn:
    sys.exit(f"polarquant.hf.compare: {message}")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def bytes_of(cache: Any) -> int:
    """Resident bytes of any cache: ours says so, of others all tensors are counted."""
    if isinstance(cache, PolarQuantCache):
        return cache.memory()["total_bytes"]
    return sum(_bytes_within(vars(layer), set()) for layer in cache.layers)


def _bytes_within(value: Any, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        # Quantised tensors are subclasses that keep their parts as attributes.
        parts = [part for part in vars(value).values() if isinstance(part, torch.Tensor)]
        if parts:
            return sum(_bytes_within(part, seen) for part in parts)
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, dict):
        return sum(_bytes_within(each, seen) for each in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes_within(each, seen) for each in value)
    return 0


class Way:
    """One column: how to make a cache, and the attention that goes with it."""

    def __init__(self, name: str, profile: str | None) -> None:
        self.name, self.attention, self.reason = name, "sdpa", None
        self._profile: Any = profile
        backend = name.rstrip("0123456789")
        if name == "dynamic":
            self._make: Callable[[Any], Any] = lambda config: DynamicCache(config=config)
        elif backend in PEERS:
            bits = int(name[len(backend) :])
            if importlib.util.find_spec(PEERS[backend].split(".")[0]) is None:
                self.reason = f"the package {PEERS[backend].replace('.', '-')} is not installed"
            axis = 1 if backend == "hqq" else 0
            self._make = lambda config: QuantizedCache(
                backend, config, nbits=bits, axis_key=axis, axis_value=axis
            )
        else:
            schemes, _, how = name.partition("@")
            if how not in ("packed", "decoded"):
                fail(f"cache {name!r} is none of {DEFAULT} and does not end in @packed or @decoded")
            key, _, value = schemes.partition("/")
            self.attention = "polarquant" if how == "packed" else "sdpa"
            self._make = lambda config: PolarQuantCache(
                config, key=key, value=value or key, profile=self._profile or "auto"
            )

    def make(self, model: Any) -> Any:
        model.set_attn_implementation(self.attention)
        return self._make(model.config)

    def needs_queries(self) -> bool:
        return self.attention == "sdpa" and "balance" in self.name and self._profile is None


@torch.no_grad()
def teacher_forced(
    model: Any, ids: torch.Tensor, cache: Any, chunk: int, name: str
) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] in 16 bit."""
    parts, started = [], time.monotonic()
    for first in range(0, ids.shape[1], chunk):
        out = model(ids[:, first : first + chunk], past_key_values=cache, use_cache=True)
        parts.append(out.logits[0].float().log_softmax(-1).half())
        if time.monotonic() - started > 5:
            say(f"  {name}: {first + chunk} of {ids.shape[1]} tokens")
            started = time.monotonic()
    return torch.cat(parts)


def quality(wanted: torch.Tensor, got: torch.Tensor, ids: torch.Tensor) -> dict[str, float]:
    divergences, agreed, loss, block = [], 0, 0.0, 256
    for first in range(0, len(wanted), block):
        p, q = wanted[first : first + block].float(), got[first : first + block].float()
        divergences.append((p.exp() * (p - q)).sum(-1).clamp(min=0))
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        following = ids[0, first + 1 : first + 1 + block]
        loss -= float(q[: len(following)].gather(1, following[:, None]).sum())
    kl = torch.cat(divergences)
    return {
        "kl_mean": float(kl.mean()),
        "kl_later": float(kl[len(kl) // 4 :].mean()),
        "kl_999": float(kl.quantile(0.999)),
        "top1": agreed / len(wanted),
        "ppl": math.exp(loss / (len(wanted) - 1)),
    }


class Speed:
    """A cache that was filled, and the steps after it."""

    @torch.no_grad()
    def __init__(self, model: Any, ids: torch.Tensor, way: Way, depth: int) -> None:
        self.model, self.ids, self.way, self.depth, self.at = model, ids, way, depth, depth
        self.cache, self.steps = way.make(model), []
        started = time.perf_counter()
        if depth:
            model(ids[:, :depth], past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.prefill = time.perf_counter() - started
        self.step()  # buffers are made
        self.steps.clear()

    @torch.no_grad()
    def step(self) -> None:
        self.model.set_attn_implementation(self.way.attention)
        started = time.perf_counter()
        token = self.ids[:, self.at : self.at + 1]
        self.model(token, past_key_values=self.cache, use_cache=True)
        self.steps.append(time.perf_counter() - started)
        self.at += 1

    def figures(self, floor: float) -> dict[str, float]:
        step = statistics.median(self.steps)
        return {
            "prefill_tokens_per_s": len(self.ids) * self.depth / self.prefill,
            "decode_tokens_per_s": len(self.ids) / step,
            "decode_ms": 1e3 * step,
            "cache_ms": 1e3 * (step - floor),
            "decode_depth": self.depth,
        }


def add_speed(
    report: dict[str, Any], model: Any, ids: torch.Tensor, decode: int, profile: str | None
) -> None:
    """Of every cache of the report, all filled at the same time."""
    depth = ids.shape[1] - decode - 1
    floor = Speed(model, ids, Way("dynamic", None), 0)
    filled = []
    for row in report["caches"]:
        say(f"{row['cache']}: {len(ids)} x {depth} tokens")
        filled.append(Speed(model, ids, Way(row["cache"], profile), depth))
    for i in range(decode):
        for each in (floor, *filled):
            each.step()
        if i % 8 == 7:
            say(f"  {i + 1} of {decode} steps")
    report["floor_ms"] = 1e3 * statistics.median(floor.steps)
    for row, each in zip(report["caches"], filled, strict=True):
        row |= each.figures(report["floor_ms"] / 1e3)


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    dtype = getattr(torch, args.dtype)
    if args.model == "random":
        layers, heads, kv_heads, head_dim = (int(n) for n in args.random_shape.split(","))
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=1024, hidden_size=heads * head_dim, intermediate_size=2 * heads * head_dim,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
            head_dim=head_dim, max_position_embeddings=args.context + args.decode + 1,
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), None
    if args.model.endswith(".gguf"):
        folder, file = os.path.split(os.path.abspath(args.model))
        options = {"gguf_file": file}
    else:
        folder, options = args.model, {}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return model.eval(), tokenizer


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = load(args)
    needed = args.context + args.decode + 1
    if tokenizer is None:
        ids = torch.randint(0, 1024, (1, needed))
    else:
        with open(args.file, encoding="utf-8") as file:
            text = file.read(needed * 16)
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :needed]
        if ids.shape[1] < needed:
            fail(f"{args.file} has {ids.shape[1]} tokens: {needed} are needed, or a smaller -c")
    report: dict[str, Any] = {
        "polarquant": polarquant.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "kernels": polarquant.active_target(),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "model": os.path.basename(args.model),
        "context": args.context,
        "chunk": args.chunk,
        "batch": args.batch,
        "caches": [],
        "left_out": {},
    }
    names = args.cache or (DEFAULT if tokenizer else ["dynamic", "quanto4", "hqq4", *OURS])
    text_ids, wanted = ids[:, : args.context], None
    if tokenizer and not args.speed_only and names[0] != "dynamic":
        names = ["dynamic", *names]
    for name in names:
        way = Way(name, args.profile)
        if way.needs_queries():
            way.reason = "balanced keys need --profile FILE where torch attends"
        if way.reason:
            report["left_out"][name] = way.reason
            say(f"{name}: left out, {way.reason}")
            continue
        say(f"{name} ...")
        row: dict[str, Any] = {"cache": name}
        try:
            if tokenizer and not args.speed_only:
                cache = way.make(model)
                got = teacher_forced(model, text_ids, cache, args.chunk, name)
                wanted = got if wanted is None else wanted
                row |= quality(wanted, got, text_ids)
                row["bytes"] = bytes_of(cache)
                del cache, got
            elif args.decode:
                Speed(model, ids[:, :65], way, 64)  # whether it works at all
        except Exception as error:  # a peer that crashes is part of the answer
            if "@" in name:
                raise
            report["left_out"][name] = f"{type(error).__name__}: {error}"
            say(f"{name}: left out, {report['left_out'][name]}")
            continue
        gc.collect()
        report["caches"].append(row)
        say("  " + ", ".join(f"{k} {v:.5g}" for k, v in row.items() if k != "cache"))
    if args.decode:
        add_speed(report, model, ids.expand(args.batch, -1), args.decode, args.profile)
    return report


def table(report: dict[str, Any]) -> str:
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "cache": ("cache", str),
        "bytes": ("MiB", lambda b: f"{b / 2**20:.2f}"),
        "kl_mean": ("KL mean", "{:.5f}".format),
        "kl_later": ("KL last 3/4", "{:.5f}".format),
        "kl_999": ("KL 99.9 %", "{:.4f}".format),
        "top1": ("top-1", "{:.1%}".format),
        "ppl": ("PPL", "{:.3f}".format),
        "prefill_tokens_per_s": ("prefill tok/s", "{:.0f}".format),
        "decode_tokens_per_s": ("decode tok/s", "{:.2f}".format),
        "decode_ms": ("step ms", "{:.1f}".format),
        "cache_ms": ("cache ms", "{:.1f}".format),
    }
    titles = [title for title, _ in columns.values()]
    lines = ["| " + " | ".join(titles) + " |", "| --- " * len(columns) + "|"]
    for row in report["caches"]:
        cells = [show(row[key]) if key in row else "" for key, (_, show) in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    if "floor_ms" in report:
        lines.append(f"a step with an empty cache: {report['floor_ms']:.1f} ms")
    lines += [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: str) -> None:
    """KL divergence against bytes, and decode speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    rows = [row for row in report["caches"] if row.get("kl_mean", 0) > 1e-7]
    for row in rows:
        marker = "o" if "@" in row["cache"] else "s"
        left.plot(row["bytes"] / 2**20, row["kl_mean"], marker)
        left.annotate(row["cache"], (row["bytes"] / 2**20, row["kl_mean"]), fontsize=7)
    if rows:
        left.set_yscale("log")
    left.set_xlabel("MiB held")
    left.set_ylabel("mean KL from DynamicCache (nats)")
    timed = [row for row in report["caches"] if "decode_tokens_per_s" in row]
    right.barh([r["cache"] for r in timed], [r["decode_tokens_per_s"] for r in timed])
    right.invert_yaxis()
    right.set_xlabel(f"decoded tokens/s, {timed[0]['decode_depth'] if timed else 0} tokens held")
    right.tick_params(labelsize=7)
    figure.suptitle(f"{report['model']}, {report['context']} tokens")
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m polarquant.hf.compare", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("-m", "--model")
    parser.add_argument("-f", "--file", help="text, UTF-8")
    parser.add_argument("-c", "--context", type=int, default=2048, help="tokens")
    parser.add_argument("--chunk", type=int, default=64, help="tokens fed at once")
    parser.add_argument("--decode", type=int, default=32, help="steps timed, 0: none")
    parser.add_argument("--batch", type=int, default=1, help="sequences decoded together")
    parser.add_argument("--cache", action="append", help="instead of all; may be repeated")
    parser.add_argument("--profile", help="of `polarquant tune`, for balanced keys")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--random-shape", default="4,8,2,128", metavar="LAYERS,HEADS,KV_HEADS,DIM")
    parser.add_argument("--speed-only", action="store_true", help="no KL and perplexity")
    parser.add_argument("--json", help="where the figures go")
    parser.add_argument("--plot", help="a picture of them; without -m, of what --json holds")
    args = parser.parse_args(arguments)
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        fail("--plot needs matplotlib: pip install matplotlib")  # said now, not after minutes
    if args.model is None:
        if not (args.plot and args.json):
            fail("say -m MODEL; or --plot PICTURE --json FIGURES to draw what was measured")
        with open(args.json, encoding="utf-8") as file:
            plot(json.load(file), args.plot)
        return
    if args.model != "random" and args.file is None:
        fail("say -f TEXT")
    if args.context < 64 or args.chunk < 1 or args.batch < 1 or args.decode < 0:
        fail("-c must be at least 64, --chunk and --batch 1, --decode 0")
    if args.profile:
        Profile(args.profile)  # refused now rather than after minutes
    report = measure(args)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    print(table(report))
    if args.plot:
        plot(report, args.plot)


if __name__ == "__main__":
    main()
