# SPDX-License-Identifier: Apache-2.0
"""The chunked protocol of `polarquant perplexity`: 32 tokens quantised to the last, 32 scored."""

import json
import tempfile
import unittest

import support

PASSAGE = support.PASSAGES.read_text(encoding="utf-8").split("\n\n")[0]


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
    def test_the_shipped_passages_rank_the_caches(self):
        report, rows = measure("--kv", "f16", "--kv", "turbo2", "--kv", "turbo4")
        self.assertEqual((report["passages"], report["chunk_tokens"]), (20, 32))
        self.assertEqual(report["tokens_scored"], 20 * 31)
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
        with passages(PASSAGE) as file:
            kl = {words: measure("-f", file.name, "--kv", "turbo2", *words)[1]["turbo2"]["kl_mean"]
                  for words in ((), ("--window", "32"), ("--sinks", "16"), ("--sinks", "32"))}
        self.assertLess(kl["--window", "32"], 0.01 * kl[()])
        self.assertLess(kl["--sinks", "32"], 0.01 * kl[()])
        self.assertLess(kl["--sinks", "32"], kl["--sinks", "16"])
        self.assertLess(kl["--sinks", "16"], kl[()])

    def test_a_short_passage_is_named_with_its_tokens(self):
        with passages(f"{PASSAGE}\n\nToo short to be read in two chunks.\n") as file:
            refused = chunked("-f", file.name, "--kv", "turbo4", status=40).stderr
        for word in ("passage 2", "Too short to be read", "8 tokens", "needs 64"):
            self.assertIn(word, refused)

    def test_a_file_without_passages_and_options_of_the_long_protocol_are_refused(self):
        with passages("\n \n") as file:
            self.assertIn("no passages", chunked("-f", file.name, status=40).stderr)
        self.assertIn("--chunked", chunked("-c", 512, status=40).stderr)


if __name__ == "__main__":
    unittest.main()
