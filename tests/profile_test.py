# SPDX-License-Identifier: Apache-2.0
"""Profiles: made by the command, used by stock programs, refused where they do not belong; and the
model with biased keys, on which rotation alone fails."""

import json
import pathlib
import tempfile
import unittest

import support

PROFILE_SCRIPT = ("p200", "j20", "r20", "p50", "k32", "p20", "save", "p20")
UNSAVED_SCRIPT = ("p200", "j20", "r20", "p50", "k32", "p40")  # such rows cannot be saved
RECURRENT_SCRIPT = ("p200", "p70")


class RandomModels(unittest.TestCase):
    """Every shape of attention with balanced keys: logits against stock."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.here = pathlib.Path(cls.folder.name)

    def model(self, name):
        path = self.here / f"{name}.gguf"
        if not path.exists():
            support.run([support.RANDOM_GGUF, name, path], support.stock())
        return path

    def profile(self, name):
        path = self.here / f"{name}.safetensors"
        return path if path.exists() else support.tune(self.model(name), path)

    def test_every_shape_is_near_stock(self):
        names = support.run([support.RANDOM_GGUF, "list"], support.stock()).stdout.split()
        for name in names:
            if name.startswith("bench"):
                continue
            for kv, script in (("turbo4:balanced/turbo4", PROFILE_SCRIPT),
                               ("turbo4:balance:center/turbo4", UNSAVED_SCRIPT)):
                with self.subTest(model=name, kv=kv):
                    script = RECURRENT_SCRIPT if name == "hybrid" else script
                    env = support.owned(kv, window=0, profile=self.profile(name))
                    stock = support.logits(self.model(name), support.stock(), *script)
                    ours = support.logits(self.model(name), env, *script)
                    error = support.relative_error(ours, stock)
                    self.assertLess(error, 0.3)
                    self.assertGreater(error, 0)

    def test_a_model_without_words_says_that_it_reads_random_tokens(self):
        process = support.run([support.COMMAND, "tune", "-m", self.model("dim64_gqa4"), "--tokens",
                               512, "-o", self.here / "random"], support.stock())
        self.assertIn("random tokens", process.stderr)

    def test_missing_dense_maps_are_an_error_that_says_how_to_make_one(self):
        process = support.run([support.LOGITS, self.model("dim64_gqa4"), "/dev/null", "p20"],
                              support.owned("turbo4:dense/turbo4"), status=None)
        self.assertIn("polarquant tune", process.stderr)

    def test_another_model_s_profile_is_refused_by_name(self):
        own, other = self.model("dim64_gqa4"), self.profile("dim128_gqa4")
        process = support.run([support.COMMAND, "perplexity", "-m", own, "-f", support.ESSAY,
                               "--profile", other], support.stock(), status=None)
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("fingerprint", process.stderr)
        # The plug-in sees shapes only, and these do not fit.
        env = support.owned("turbo4:balanced/turbo4", profile=other)
        process = support.run([support.LOGITS, own, "/dev/null", "p200"], env, status=None)
        self.assertIn("profile", process.stderr)
        self.assertNotEqual(process.returncode, 0)

    def test_values_cannot_be_balanced(self):
        process = support.run([support.COMMAND, "perplexity", "-m", self.model("dim64_gqa4"), "-f",
                               support.ESSAY, "--kv", "turbo4:balanced"], support.stock(),
                              status=None)
        self.assertIn("turbo4:balanced/turbo4", process.stderr)


@unittest.skipUnless(support.MODEL, "needs a real model")
class SavedState(unittest.TestCase):
    def test_is_loaded_by_a_new_process_before_anything_was_computed(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            state, prompt = folder / "state", folder / "prompt.txt"
            prompt.write_text(support.ESSAY.read_text(encoding="utf-8")[:3000], encoding="utf-8")
            env = support.owned("turbo4:balanced/turbo4", window=0,
                                profile=support.tune(support.MODEL, folder / "model.safetensors"))
            words = [support.LLAMA / "llama-completion", "-m", support.MODEL, "-f", prompt, "-n",
                     "16", "-no-cnv", "--temp", "0", "--no-display-prompt", "-t", support.THREADS,
                     "-c", "2048", "--prompt-cache", state, "--prompt-cache-ro"]
            support.run([*words[:-1], "-n", "1"], env)
            self.assertGreater(state.stat().st_size, 0)
            loaded = support.run(words, env)
            self.assertIn("loaded a session", loaded.stderr)
            self.assertTrue(loaded.stdout.strip())


@unittest.skipUnless(support.MODEL, "needs a real model")
class BiasedKeys(unittest.TestCase):
    """Keys with a few huge channel pairs and a bias before RoPE, as Qwen2.5 has them."""

    def test_balance_makes_four_bits_better_than_eight(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            model, profile = folder / "biased.gguf", folder / "biased.safetensors"
            support.run([support.BIASED_GGUF, support.MODEL, model], support.stock())
            support.tune(model, profile)
            keys = ["turbo4", "turbo4:balance:center", "turbo4:balanced"]
            caches = [word for key in keys for word in ("--kv", f"{key}/f16")]
            env = dict(support.stock(), XDG_CACHE_HOME=str(folder))
            process = support.run(
                [support.COMMAND, "perplexity", "-m", model, "-f", support.ESSAY, "-c", 2048,
                 "--chunks", 1, "--expand-weights", "--window", 0, "--sinks", 4, "--profile",
                 profile, "-t", support.THREADS, *caches, "--kv", "stock:q8_0/f16", "--json"], env)
            kl = {run["kv"]: run["kl_mean"] for run in json.loads(process.stdout)["runs"]}
            print(json.dumps(kl))
            self.assertGreater(kl["turbo4/f16"], 1.0)
            self.assertLess(kl["turbo4:balance:center/f16"], 0.02)
            self.assertLess(kl["turbo4:balanced/f16"], 0.015)
            self.assertLess(kl["turbo4:balanced/f16"], kl["stock:q8_0/f16"])


if __name__ == "__main__":
    unittest.main()
