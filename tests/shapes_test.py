# SPDX-License-Identifier: Apache-2.0
"""Random models of every attention shape: logits with the plug-in against stock logits."""

import pathlib
import tempfile
import unittest

import support

# Decode, decode wrong tokens and take them back, shift the context, save and load.
SCRIPT = ("p200", "j20", "r20", "p50", "k32", "p20", "save", "p20")
# Recurrent layers can neither take tokens back nor shift.
HYBRID_SCRIPT = ("p200", "save", "p70")


class EveryShape(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        names = support.run([support.RANDOM_GGUF, "list"], support.stock()).stdout.split()
        cls.models = {}
        for name in names:
            if name.startswith("bench"):
                continue
            cls.models[name] = pathlib.Path(cls.folder.name) / f"{name}.gguf"
            support.run([support.RANDOM_GGUF, name, cls.models[name]], support.stock())
        assert len(cls.models) >= 12, names
        # What llama.cpp says by itself, with one sequence and with three interleaved ones.
        cls.stock = {(name, options): support.logits(model, support.stock(), *options,
                                                     *cls.script(name))
                     for name, model in cls.models.items() for options in cls.modes()}

    @staticmethod
    def modes():
        return ((), ("-s", "3"))

    @staticmethod
    def script(name):
        return HYBRID_SCRIPT if name == "hybrid" else SCRIPT

    def compare(self, kv, limit, modes, **settings):
        for name, model in self.models.items():
            for options in modes:
                with self.subTest(model=name, options=options, kv=kv, **settings):
                    ours = support.logits(model, support.owned(kv, **settings), *options,
                                          *self.script(name))
                    reference = self.stock[name, options]
                    if limit == 0:
                        self.assertEqual(ours, reference)
                    else:
                        error = support.relative_error(ours, reference)
                        self.assertLess(error, limit)
                        self.assertGreater(error, 0, "our kernels did not run")

    def test_f16_gives_the_very_logits_of_stock(self):
        self.compare("f16", 0, self.modes())

    def test_f16_through_our_kernels_differs_by_rounding_only(self):
        # Stock accumulates values in f16; that alone is worth 0.003.
        self.compare("f16", 0.01, ((),), attention="own")

    def test_eight_bit_codes_are_close(self):
        self.compare("turbo8", 0.03, ((),), window=0)

    def test_four_bit_codes_are_near_with_one_sequence_and_three(self):
        for kv in ("turbo4/turbo4", "turbo4:balanced/turbo4"):  # the latter learns as it goes
            self.compare(kv, 0.3, self.modes(), window=0)


class TokensTakenBack(unittest.TestCase):
    """Speculative decoding: what was written, removed and overwritten leaves no trace."""

    def test_equal_never_written(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model.gguf"
            support.run([support.RANDOM_GGUF, "dim64_gqa4", model], support.stock())
            plain = ("-u", "64", "p256", "p192", "p64")
            rewound = ("-u", "64", "p256", "j64", "r64", "p192", "j64", "r64", "p64")
            for kv, limit in (("f16", 0), ("q8_0", 0.02), ("turbo4", 0.1)):
                with self.subTest(kv=kv):
                    env = support.owned(kv, window=0)
                    one, other = support.logits(model, env, *plain), support.logits(model, env,
                                                                                    *rewound)
                    # Codes differ only in when a page closed, so what is read exact may differ.
                    error = support.relative_error(other, one)
                    self.assertLessEqual(error, limit)


if __name__ == "__main__":
    unittest.main()
