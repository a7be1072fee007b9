# SPDX-License-Identifier: Apache-2.0
"""The bytes that the plug-in reports are the bytes that are resident."""

import functools
import pathlib
import tempfile
import unittest

import support

CELLS = 8192


def resident_bytes(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@functools.cache  # filling takes a minute
def filled(kv):
    """Growth of a server while about 8,000 cells are filled, and what the plug-in reports."""
    with tempfile.NamedTemporaryFile() as events:
        with support.Server(support.owned(kv, status=events.name), "-c", CELLS, "-np", 1, "-b",
                            "256", "-ub", "256", "--cache-ram", "0") as server:
            # Everything but the cache is touched by a prompt of two micro-batches.
            words = support.ESSAY.read_text().split()
            server.complete(" ".join(words[:400]), 0, 2)
            before = resident_bytes(server)
            server.complete(" ".join(words[:6000]), 0, 2)
            growth = resident_bytes(server) - before
        last = support.read_events(events.name)[-1]
    return growth, last


class Memory(support.RealModelTest):
    def test_reported_is_resident_at_eight_thousand_cells(self):
        for kv in ("f16", "turbo4"):
            with self.subTest(kv=kv):
                growth, last = filled(kv)
                self.assertEqual(last["event"], "exit")
                cells = last["filled_cells"]
                self.assertGreater(cells, 6500)
                self.assertLessEqual(cells, CELLS)
                # The first prompt's cells were there before; they are exact or nearly so.
                share = last["kv_resident_bytes"]
                early = 500 * share / cells if kv == "f16" else 0
                self.assertAlmostEqual((growth + early) / share, 1, delta=0.1,
                                       msg=f"grew {growth}, reported {last}")

    def test_four_bits_take_less_than_a_third(self):
        _, last = filled("turbo4")
        self.assertLess(last["kv_resident_bytes"], 0.31 * last["f16_bytes"])
        _, thinner = filled("turbo4/turbo3")
        self.assertLess(thinner["kv_resident_bytes"], last["kv_resident_bytes"])


if __name__ == "__main__":
    unittest.main()
