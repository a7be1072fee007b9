# SPDX-License-Identifier: Apache-2.0
"""llama-server as people start it: no slots named, conversations that come and go through its own
cache in RAM, behind `polarquant run`."""

import pathlib
import tempfile
import time
import unittest

import support

ESSAY_FILE = support.ESSAY
ESSAY = ESSAY_FILE.read_text()
LONG, OTHER = ESSAY[:12400], ESSAY[14000:21000]  # some 2,800 and 1,600 tokens
PRESETS = ("small", "balanced", "precise")


def served(kv, *arguments):
    run = [support.COMMAND, "run", "--kv", kv, "--", support.LLAMA / "llama-server"]
    return support.Server(support.stock(), "-c", 16384, *arguments, program=run)


def ask(server, prompt, tokens=64):
    return server.post("/completion", prompt=prompt, n_predict=tokens, temperature=0, seed=1,
                       cache_prompt=True, ignore_eos=True)


class Conversations(support.RealModelTest):
    def test_one_that_returns_is_as_fast_as_it_was(self):
        for kv in PRESETS:
            with self.subTest(kv=kv), served(kv) as server:
                ratios = []
                for attempt in range(3):  # the machine may be busy with other things
                    prompt = f"Try {attempt}. " + LONG
                    first = ask(server, prompt)
                    ask(server, f"Another {attempt}. " + OTHER)
                    again = ask(server, prompt)
                    # Not letter by letter: of what returns, the rows that had left the window are
                    # codes now.
                    self.assertEqual(again["content"][:10], first["content"][:10])
                    self.assertLess(again["timings"]["prompt_n"], 100, "it was not restored")
                    ratios.append(again["timings"]["predicted_per_second"] /
                                  first["timings"]["predicted_per_second"])
                    if ratios[-1] >= 0.9:
                        break
                print(f"{kv}: decodes at {max(ratios):.2f} of its first speed")
                self.assertGreaterEqual(max(ratios), 0.9, ratios)

    def test_twenty_unrelated_prompts_are_answered_with_the_precise_cache(self):
        with served("precise") as server:
            for part in range(20):
                answer = ask(server, ESSAY[part * 1500:part * 1500 + 1400], 8)
                self.assertTrue(answer["content"].strip())
            self.assertIsNone(server.process.poll())

    def test_eight_at_once_are_read_as_well_as_each_alone(self):
        """Window and sinks are each conversation's own: cells of all eight interleave."""
        script = ("-f", ESSAY_FILE, "-c", 8192, "f384", "p64")
        with tempfile.TemporaryDirectory() as folder:
            stock = pathlib.Path(folder) / "stock"
            ours = support.owned("turbo4:balanced/turbo4", profile=support.tune(
                support.MODEL, pathlib.Path(folder) / "model.safetensors"))

            def divergences(*options):
                support.run([support.LOGITS, support.MODEL, stock, *options, *script],
                            support.stock())
                _, *numbers = support.run([support.LOGITS, support.MODEL, "/dev/null", "-r", stock,
                                           *options, *script], ours).stdout.split()
                return [float(number) for number in numbers]

            together = divergences("-s", 8)
            alone = [divergences("-o", k)[0] for k in range(8)]
        print("KL of eight at once, of each alone:",
              *(f"{a:.5f}/{b:.5f}" for a, b in zip(together, alone)))
        self.assertLessEqual(sum(together), 1.2 * sum(alone))
        for a, b in zip(together, alone, strict=True):  # of 64 tokens: some of it is chance
            self.assertLessEqual(a, 1.5 * b)

    def test_a_long_slot_is_saved_and_restored_in_little_time(self):
        def times(server):
            ask(server, ESSAY, 1)
            best = {}
            for _ in range(3):
                for action in ("save", "restore"):
                    start = time.monotonic()
                    done = server.post(f"/slots/0?action={action}", filename="slot.bin")
                    seconds = time.monotonic() - start
                    best[action] = min(seconds, best.get(action, seconds))
            self.assertGreater(done["n_restored"], 7000)
            return best

        with tempfile.TemporaryDirectory() as folder:
            options = ("-np", 1, "--slot-save-path", folder)
            with support.Server(support.stock(), "-c", 16384, *options) as server:
                stock = times(server)
            with served("balanced", *options) as server:
                ours = times(server)
        for action in stock:
            print(f"{action}: {ours[action]:.3f} s, stock {stock[action]:.3f} s")
            self.assertLessEqual(ours[action], 3 * stock[action])


if __name__ == "__main__":
    unittest.main()
