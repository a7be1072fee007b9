# SPDX-License-Identifier: Apache-2.0
"""A real model in stock programs: the f16 scheme changes not one digit, 4 bits change little."""

import re
import tempfile
import unittest

import support


def perplexity(env):
    output = support.run(
        [support.LLAMA / "llama-perplexity", "-m", support.MODEL, "-f", support.ESSAY, "-c", "512",
         "--chunks", "4", "-b", "512", "-t", support.THREADS], env)
    found = re.search(r"Final estimate: PPL = ([0-9.]+ \+/- [0-9.]+)",
                      output.stdout + output.stderr)
    if not found:
        raise AssertionError(output.stdout[-1000:] + output.stderr[-1000:])
    return found.group(1)


def answer(env, tokens=200):
    """What llama-completion writes after the first 2,000 characters of the essay, greedily."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
        prompt.write(support.ESSAY.read_text()[:2000])
        prompt.flush()
        output = support.run(
            [support.LLAMA / "llama-completion", "-m", support.MODEL, "-f", prompt.name, "-n",
             tokens, "-no-cnv", "--temp", "0", "--seed", "1", "-c", "2048", "--no-display-prompt",
             "--no-warmup", "-t", support.THREADS], env)
    return output.stdout


class RealModel(support.RealModelTest):
    def test_perplexity_through_f16_prints_the_same_digits(self):
        self.assertEqual(perplexity(support.owned("f16")), perplexity(support.stock()))

    def test_the_plug_in_really_ran(self):
        with tempfile.NamedTemporaryFile() as status:
            answer(support.owned("f16", status=status.name), tokens=4)
            names = [event["event"] for event in support.read_events(status.name)]
        for expected in ("loaded", "cache", "attention", "exit"):
            self.assertIn(expected, names)
        self.assertNotIn("bypass", names)

    def test_the_start_line_says_what_is_slow(self):
        for kv, slow in (("turbo4:center/turbo4", []), ("kivi2/turbo4", ["kivi2"])):
            with self.subTest(kv=kv), tempfile.NamedTemporaryFile() as status:
                answer(support.owned(kv, status=status.name), tokens=4)
                events = {event["event"]: event for event in support.read_events(status.name)}
                if events["cache"]["isa"] == "scalar":
                    self.skipTest("without vector instructions everything is decoded")
                self.assertEqual(events["cache"]["decoded"], slow)

    def test_two_hundred_greedy_tokens_through_f16_are_the_same(self):
        text = answer(support.stock())
        self.assertGreater(len(text), 300)
        self.assertEqual(answer(support.owned("f16")), text)

    def test_perplexity_through_four_bits_is_near(self):
        plain = float(perplexity(support.stock()).split()[0])
        coded = float(perplexity(support.owned("turbo4:center/turbo4", window=0)).split()[0])
        self.assertNotEqual(coded, plain)
        self.assertLess(abs(coded / plain - 1), 0.03)


if __name__ == "__main__":
    unittest.main()
