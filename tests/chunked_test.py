# SPDX-License-Identifier: Apache-2.0
"""The chunked protocol of `polarquant perplexity`: 32 tokens quantised to the last, 32 scored."""

import json
import tempfile
import unittest

import support

PASSAGES = support.PASSAGES.read_text(encoding="utf-8").split("\n\n")


def chunked(*arguments, status=0):
    return support.run([support.COMMAND, "perplexity", "--chunked", "-m", support.MODEL, "-t",
                        support.THREADS, *arguments], support.stock(), status=status)


def measure(*arguments):
    report = json.loads(chunked(*arguments, "--json").stdout)
    return report, {row["kv"]: row for row in report["runs"]}


def passages(text):
    file = tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8")
    file.write(text)
    file.flush()
    return file


class Chunked(support.RealModelTest):
    def test_twenty_passages_are_shipped(self):
        report, rows = measure("--kv", "stock:f16")
        self.assertEqual((report["passages"], report["chunk_tokens"]), (20, 32))
        self.assertEqual(report["tokens_scored"], 20 * 31)
        self.assertEqual(list(rows), ["stock:f16"])

    def test_more_bits_are_nearer_and_plain_halves_are_the_same(self):
        with passages("\n\n".join(PASSAGES[:6])) as file:
            rows = measure("-f", file.name, "--kv", "f16", "--kv", "turbo2", "--kv", "turbo4")[1]
        stock, same = rows["stock:f16"], rows["f16"]
        for row in (stock, same):
            self.assertEqual((row["kl_mean"], row["kl_max"], row["top1"]), (0, 0, 1))
        self.assertEqual(same["ppl"], stock["ppl"])
        self.assertGreater(rows["turbo4"]["kl_mean"], 0)
        self.assertGreater(rows["turbo2"]["kl_mean"], 4 * rows["turbo4"]["kl_mean"])
        self.assertGreater(rows["turbo2"]["ppl"], rows["turbo4"]["ppl"])
        for kv in ("turbo2", "turbo4"):
            self.assertEqual((rows[kv]["window"], rows[kv]["sinks"]), (0, 0))

    def test_all_history_is_quantised_unless_a_window_or_sinks_are_asked_for(self):
        # With all of it exact only the order of sums differs from stock.
        with passages(PASSAGES[0]) as file:
            all_quantised, window, sinks = (
                measure("-f", file.name, "--kv", "turbo2", *words)[1]["turbo2"]["kl_mean"]
                for words in ((), ("--window", "32"), ("--sinks", "32")))
        self.assertLess(window, 0.1 * all_quantised)
        self.assertLess(sinks, 0.1 * all_quantised)

    def test_a_short_passage_is_named_with_its_tokens(self):
        with passages(f"{PASSAGES[0]}\n\nToo short to be read in two chunks.\n") as file:
            refused = chunked("-f", file.name, "--kv", "turbo4", status=40).stderr
        self.assertRegex(refused, r'passage 2 of .*"Too short to be read.*has \d+ tokens')
        self.assertIn("needs 64", refused)

    def test_a_file_without_passages_and_options_of_the_long_protocol_are_refused(self):
        with passages("\n \n") as file:
            self.assertIn("no passages", chunked("-f", file.name, status=40).stderr)
        self.assertIn("--chunked", chunked("-c", 512, status=40).stderr)


if __name__ == "__main__":
    unittest.main()
