# SPDX-License-Identifier: Apache-2.0
"""The commands that measure and check codecs: codecs, capture, verify."""

import json
import pathlib
import signal
import subprocess
import tempfile
import unittest

import support


def command(*arguments, status=0, **environment):
    return support.run([support.COMMAND, *arguments], {**support.stock(), **environment},
                       status=status)


def measure(*arguments):
    report = json.loads(command("codecs", *arguments, "--json").stdout)
    return report, {row["scheme"]: row for row in report["codecs"]}


class Codecs(unittest.TestCase):
    # D of Gaussian rows of 128 values. The turbo codecs search several steps for each row, so theirs
    # is below that of Lloyd-Max codes under one step (docs/codecs.md).
    DISTORTION = {"turbo2": 0.1294, "turbo2:scale=mse": 0.1146, "turbo3": 0.0328,
                  "turbo3:scale=mse": 0.0318, "turbo4": 0.00795, "turbo4:scale=mse": 0.00788,
                  "q4_0": 0.00738, "q8_0": 2.88e-5, "fp8_e4m3": 0.00066, "int4": 0.00803,
                  "int2": 0.2025, "turbo4_0": 0.0181, "polar": 0.0319, "e8p:scale=mse": 0.0888,
                  "trellis2:scale=mse": 0.0786}
    BITS = {"turbo2": 2.125, "turbo3": 3.125, "turbo4": 4.125, "q4_0": 4.5, "q8_0": 8.5,
            "fp8_e4m3": 8.125, "int4": 4.5, "int2": 2.5, "turbo4_0": 4.25}

    @classmethod
    def setUpClass(cls):
        words = [word for scheme in cls.DISTORTION for word in ("--codec", scheme)]
        cls.report, cls.rows = measure(*words, "--head-dim", 128, "--vectors", 2048)

    def test_the_error_is_the_documented_one(self):
        for scheme, expected in self.DISTORTION.items():
            with self.subTest(scheme=scheme):
                self.assertAlmostEqual(self.rows[scheme]["distortion"] / expected, 1, delta=0.03)

    def test_bits_are_the_documented_ones(self):
        for scheme, expected in self.BITS.items():
            self.assertEqual(self.rows[scheme]["bits_per_value"], expected, scheme)

    def test_scale_rules_show_in_the_bias(self):
        for bits in (2, 3, 4):
            plain, least = self.rows[f"turbo{bits}"], self.rows[f"turbo{bits}:scale=mse"]
            self.assertAlmostEqual(plain["inner_product_bias"], 0, delta=1e-4)
            self.assertAlmostEqual(least["inner_product_bias"], -least["distortion"], delta=1e-4)
            self.assertLess(least["distortion"], plain["distortion"])

    def test_nothing_is_coded_below_its_entropy(self):
        for scheme, row in self.rows.items():
            self.assertLessEqual(row["record_entropy_bits"], row["bits_per_value"], scheme)
            # zstd may store a page as it is, and adds a few bytes.
            self.assertLess(row["zstd_bits"], row["bits_per_value"] * 1.01, scheme)
            if row["code_entropy_bits"] is not None:
                self.assertLess(row["code_entropy_bits"], row["zstd_bits"], scheme)

    def test_the_same_seed_gives_the_same_figures(self):
        arguments = ("--codec", "turbo3", "--data", "heavy", "--head-dim", 64, "--vectors", 256)
        first, again = (measure(*arguments)[1]["turbo3"] for _ in range(2))
        other = measure(*arguments, "--seed", 2)[1]["turbo3"]
        self.assertEqual(first["distortion"], again["distortion"])
        self.assertNotEqual(first["distortion"], other["distortion"])

    def test_centring_pays_on_channels_with_a_mean(self):
        rows = measure("--data", "channels", "--vectors", 512, "--codec", "turbo3", "--codec",
                       "turbo3:center")[1]
        self.assertLess(rows["turbo3:center"]["distortion"], 0.8 * rows["turbo3"]["distortion"])

    def test_every_codec_is_in_the_table_or_says_why_not(self):
        names = {row["name"] for row in json.loads(command("schemes", "--json").stdout)["schemes"]
                 if ":" not in row["name"]}
        for role in ("key", "value"):
            report, rows = measure("--head-dim", 80, "--vectors", 128, "--role", role)
            refused = {row["scheme"] for row in report["refused"]}
            self.assertEqual(set(rows) | refused, names)
            self.assertIn("q4_0", refused)
            self.assertEqual("qjl" in refused, role == "value")

    def test_what_cannot_be_measured_is_refused(self):
        for arguments, word in ((["--codec", "turbo9"], "turbo9"),
                                (["--codec", "turbo4:balanced"], "perplexity"),
                                (["--codec", "qjl", "--role", "value"], "qjl"),
                                (["--codec", "q4_0", "--head-dim", 80], "80"),
                                (["--head-dim", 7], "7"), (["--data", "cauchy"], "cauchy"),
                                (["--data", __file__], "header")):
            process = command("codecs", *arguments, status=None)
            self.assertGreaterEqual(process.returncode, 10)
            self.assertIn(word, process.stderr)
            self.assertEqual(process.stdout, "")

    def test_an_interrupt_ends_it(self):
        process = subprocess.Popen([support.COMMAND, "codecs", "--codec", "trellis3", "--vectors",
                                    str(1 << 20)], env=support.stock(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        process.stderr.readline()  # the progress: it has begun
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGINT, errors)
        self.assertEqual(output, "")


class Capture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.here = pathlib.Path(cls.folder.name)
        cls.model = cls.here / "model.gguf"
        support.run([support.RANDOM_GGUF, "dim64_gqa4", cls.model], support.stock())

    def capture(self, name, *arguments, status=0):
        path = self.here / name
        return path, command("capture", "-m", self.model, "-t", support.THREADS, "-o", path,
                             *arguments, status=status)

    def test_rows_can_be_measured(self):
        path, process = self.capture("all", "--tokens", 300, "--json")
        report = json.loads(process.stdout)
        self.assertEqual(report["tokens"], 300)
        self.assertEqual(report["bytes"], path.stat().st_size)
        for role in ("key", "value"):
            report, rows = measure("--data", path, "--role", role, "--codec", "q8_0", "--codec",
                                   "f16")
            self.assertEqual(report["head_dim"], 64)
            self.assertEqual(report["rows"] % 256, 0)  # of 300 tokens two pages are whole
            self.assertEqual(rows["f16"]["distortion"], 0)  # f16 is what the cache holds
            self.assertLess(rows["q8_0"]["distortion"], 1e-4)

    def test_layers_are_chosen(self):
        whole, _ = self.capture("whole", "--tokens", 130)
        part, process = self.capture("part", "--tokens", 130, "--layers", "0,-1", "--json")
        layers = json.loads(process.stdout)["layers"]
        self.assertEqual(layers[0], 0)
        self.assertEqual(len(layers), 2)
        all_tensors, tensors = self.tensors(whole), self.tensors(part)
        self.assertEqual(sorted(tensors), sorted(f"layer.{n}.{r}" for n in layers
                                                 for r in ("key", "value")))
        for name, data in tensors.items():
            self.assertEqual(data, all_tensors[name], name)

    def test_mistakes_are_named(self):
        for arguments, word in ((["--layers", "99"], "99"), (["--layers", "0,x"], "0,x"),
                                (["--tokens", "1000000"], "1000000")):
            process = self.capture("none", *arguments, status=None)[1]
            self.assertGreaterEqual(process.returncode, 10)
            self.assertIn(word, process.stderr)
        path = self.capture("short", "--tokens", 100)[0]
        self.assertIn("100 tokens", command("codecs", "--data", path, status=40).stderr)

    @staticmethod
    def tensors(path):
        """Of a safetensors file: name -> bytes."""
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        assert header.pop("__metadata__")["format"] == "polarquant-capture"
        return {name: data[8 + length + entry["data_offsets"][0]:
                           8 + length + entry["data_offsets"][1]]
                for name, entry in header.items()}


class Verify(unittest.TestCase):
    def test_this_build_is_as_documented(self):
        report = json.loads(command("verify", "--json").stdout)
        self.assertTrue(report["ok"])
        self.assertGreaterEqual(len(report["checks"]), 6)
        for check in report["checks"][1:]:
            self.assertLessEqual(check["figure"], check["bound"], check["name"])

    def test_an_instruction_set_that_does_not_exist_is_an_error(self):
        process = command("verify", status=40, POLARQUANT_ISA="mmx")
        self.assertIn("mmx", process.stdout)
        self.assertIn("WRONG", process.stdout)


if __name__ == "__main__":
    unittest.main()
