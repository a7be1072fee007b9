# SPDX-License-Identifier: Apache-2.0
"""The bytes that the plug-in reports are the bytes that are resident."""

import functools
import pathlib
import tempfile
import unittest

import support

CELLS = 8192
FIRST = 512  # tokens after which everything but the cache has been touched


def run(kv, *script):
    """Bytes resident at each step of a script, and the plug-in's last report."""
    with tempfile.TemporaryDirectory() as folder:
        model, events = pathlib.Path(folder) / "model.gguf", pathlib.Path(folder) / "events"
        support.run([support.RANDOM_GGUF, "bench_wide_cache", model], support.stock())
        env = support.owned(kv, status=events) if kv else support.stock()
        output = support.run([support.LOGITS, model, "/dev/null", "-u", "256", "-c", CELLS,
                              *script], env)
        return list(map(int, output.stdout.split())), kv and support.read_events(events)[-1]


@functools.cache
def growth(kv):
    resident, last = run(kv, f"f{FIRST}", f"f{CELLS - FIRST}")
    return resident[1] - resident[0], last


class Memory(unittest.TestCase):
    def test_reported_is_resident_at_eight_thousand_cells(self):
        # Stock zero-fills its cache at the start, so what it grows by is not the cache: masks and
        # the like, which we have too.
        others, _ = growth(None)
        for kv in ("f16", "turbo4:center/turbo4", "turbo3"):
            with self.subTest(kv=kv):
                grown, last = growth(kv)
                _, early = run(kv, f"f{FIRST}")
                self.assertEqual((last["event"], last["filled_cells"]), ("exit", CELLS))
                reported = last["kv_resident_bytes"] - early["kv_resident_bytes"]
                self.assertGreater(reported, 8 << 20)
                self.assertAlmostEqual((grown - others) / reported, 1, delta=0.1,
                                       msg=f"grew {grown}, stock {others}, reported {reported}")

    def test_f16_takes_what_stock_takes(self):
        _, last = growth("f16")
        self.assertAlmostEqual(last["kv_resident_bytes"] / last["f16_bytes"], 1, delta=0.02)

    def test_four_bits_take_less_than_a_third_and_three_less_still(self):
        shares = []
        for kv in ("turbo4:center/turbo4", "turbo4", "turbo4/turbo3", "turbo3"):
            _, last = growth(kv)
            shares.append(last["kv_resident_bytes"] / last["f16_bytes"])
        self.assertLess(shares[1], 0.31)
        self.assertEqual(shares, sorted(shares, reverse=True))


if __name__ == "__main__":
    unittest.main()
