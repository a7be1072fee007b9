# SPDX-License-Identifier: Apache-2.0
"""What memory() says is what the process pays."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

PROGRAM = """
import gc, re, sys
import torch, transformers
from polarquant.hf import PolarQuantCache

def resident():
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"Rss: +(\\d+) kB", file.read())[1]) * 1024

def settled(cache):  # what attention would do
    for layer in cache.packed_layers():
        layer.flush()

config = transformers.LlamaConfig(
    num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4, head_dim=128,
    hidden_size=1024, vocab_size=8)
warm = PolarQuantCache(config, key="turbo4:center", value="turbo4")
piece = torch.randn(1, 4, 1024, 128, dtype=torch.float16)
config._attn_implementation = "polarquant"   # update then decodes nothing
for _ in range(2):
    for layer in range(4):
        warm.update(piece, piece, layer)
settled(warm)
before = resident()
for _ in range(2):  # the second takes the memory of the first
    cache = None
    gc.collect()
    cache = PolarQuantCache(config, key="turbo4:center", value="turbo4")
    for _ in range(16):
        for layer in range(4):
            cache.update(piece, piece, layer)
    settled(cache)
    use = cache.memory()
    print(use["total_bytes"], use["f16_bytes"], resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_bytes_are_those_reported():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    for line in run.stdout.splitlines():
        reported, f16, measured = (int(n) for n in line.split())
        assert f16 == 4 * 2 * 4 * 128 * 16 * 1024 * 2
        assert reported < 0.32 * f16
        assert abs(measured - reported) < 0.1 * reported + 4 * 2**20, run.stdout
