# SPDX-License-Identifier: Apache-2.0
"""llama-server, unmodified: slots, prefix reuse, context shift, saved slots."""

import concurrent.futures
import tempfile
import unittest

import support

ESSAY = support.ESSAY.read_text()
PARTS = [ESSAY[start:start + 1200] for start in (0, 9000, 18000, 27000)]


def four_slots(server):
    """Four different prompts at the same time, one a slot, as users would."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(server.complete, part, slot, 24)
                   for slot, part in enumerate(PARTS)]
        return [reply.result() for reply in replies]


def one_by_one(server):
    """A fixed order of requests, so that batches are alike in both servers."""
    return [server.complete(part, slot, 32) for slot, part in enumerate(PARTS)]


def prefix_reuse(server):
    first = server.complete(PARTS[0], 0, 16)
    again = server.complete(PARTS[0] + first + " But then", 0, 16)
    rewound = server.complete(PARTS[0][:600] + " On the other hand,", 0, 32)
    return [first, again, rewound]


def saved_slot(server):
    first = server.complete(PARTS[1], 0, 8)
    saved = server.post("/slots/0?action=save", filename="slot.bin")
    server.complete(PARTS[2], 0, 8)
    restored = server.post("/slots/0?action=restore", filename="slot.bin")
    if saved["n_saved"] != restored["n_restored"] or saved["n_saved"] < 100:
        raise AssertionError(f"{saved} {restored}")
    return [first, server.complete(PARTS[1] + first, 0, 24)]


def conversation(env):
    """Everything that must be the same, as one list of texts."""
    with tempfile.TemporaryDirectory() as folder:
        with support.Server(env, "-c", 4096, "-np", 4, "--slot-save-path", folder) as server:
            texts = one_by_one(server) + prefix_reuse(server) + saved_slot(server)
            parallel = four_slots(server)
    return texts, parallel


def shifted(env):
    """A context of 256 cells that must shift several times."""
    with support.Server(env, "-c", 256, "-np", 1, "--context-shift") as server:
        return server.complete(PARTS[3][:500], 0, 400, ignore_eos=True)


class Server(support.RealModelTest):
    def test_f16_says_what_stock_says(self):
        texts, parallel = conversation(support.stock())
        our_texts, our_parallel = conversation(support.owned("f16"))
        self.assertTrue(all(texts))
        self.assertEqual(our_texts, texts)
        # Requests that race are batched as they come, and stock differs from itself in that too:
        # the texts must begin alike.
        for ours, theirs in zip(our_parallel, parallel):
            self.assertEqual(ours[:20], theirs[:20])

    def test_context_shift_through_f16_says_what_stock_says(self):
        text = shifted(support.stock())
        self.assertGreater(len(text), 800)
        self.assertEqual(shifted(support.owned("f16")), text)

    def test_four_bits_serve_everything(self):
        kv = "turbo4:balanced/turbo4"  # learns its balance from the first prompt
        texts, parallel = conversation(support.owned(kv))
        self.assertTrue(all(texts + parallel))
        self.assertGreater(len(shifted(support.owned(kv))), 800)

    def test_a_restored_slot_of_codes_goes_on_as_the_saved_one(self):
        def go_on(restore):
            with tempfile.TemporaryDirectory() as folder:
                with support.Server(support.owned("turbo4", window=0), "-c", 2048, "-np", 1,
                                    "--slot-save-path", folder) as server:
                    first = server.complete(PARTS[1], 0, 8)
                    server.post("/slots/0?action=save", filename="slot.bin")
                    if restore:
                        server.complete(PARTS[2], 0, 8)
                        server.post("/slots/0?action=restore", filename="slot.bin")
                    return server.complete(PARTS[1] + first, 0, 24)

        self.assertEqual(go_on(restore=True), go_on(restore=False))


if __name__ == "__main__":
    unittest.main()
