# SPDX-License-Identifier: Apache-2.0
"""Whatever makes llama.cpp keep its own cache makes `polarquant run` fail and say why."""

import tempfile
import unittest

import support

ARGUMENTS = ["-m", support.MODEL, "-p", "The river", "-n", "4", "-no-cnv", "--no-warmup", "-t",
             support.THREADS]


def run(arguments, program="llama-completion", env=None, before=()):
    return support.run([support.COMMAND, "--plugin", support.PLUGIN, "run", *before, "--",
                        support.LLAMA / program, *arguments], env or environment(), status=None)


def environment(**more):
    return {**support.stock(), **more}


class Bypass(support.RealModelTest):
    def setUp(self):
        # A machine that has never made a profile: the command loads the plug-in first.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.new_machine = {"XDG_CACHE_HOME": folder.name}

    def refused(self, process, *words):
        self.assertNotEqual(process.returncode, 0, process.stderr[-2000:])
        last = [line for line in process.stderr.splitlines() if line.startswith("polarquant")][-1]
        for word in words:
            self.assertIn(word, last)

    def test_without_any_the_program_runs_on_our_cache(self):
        process = run(ARGUMENTS)
        self.assertEqual(process.returncode, 0, process.stderr[-3000:])
        self.assertIn("The river", process.stdout)

    def test_each_option_is_named(self):
        for options in (["-nkvo"], ["--no-kv-offload"], ["-ngl", "0"], ["-dev", "none"],
                        ["-fa", "off"], ["-ctk", "q8_0"], ["-ctv", "q4_0"], ["-ngl", "5"]):
            with self.subTest(options=options):
                self.refused(run(ARGUMENTS + options), options[0])

    def test_each_variable_is_named(self):
        for name, value in (("LLAMA_ARG_N_GPU_LAYERS", "0"), ("LLAMA_ARG_DEVICE", "none"),
                            ("LLAMA_ARG_FLASH_ATTN", "off"), ("LLAMA_ARG_KV_OFFLOAD", "0"),
                            ("LLAMA_ARG_CACHE_TYPE_K", "q8_0")):
            with self.subTest(variable=name):
                self.refused(run(ARGUMENTS, env=environment(**{name: value})), name)

    def test_a_program_that_never_loads_the_plug_in_is_noticed(self):
        process = support.run([support.COMMAND, "--plugin", support.PLUGIN, "run",
                               "--no-profile", "--", "/bin/true"], environment(), status=None)
        self.refused(process, "true")

    def test_unknown_settings_are_errors(self):
        for name, value in (("POLARQUANT_WINDOWS", "7"), ("POLARQUANT_ISA", "mmx"),
                            ("POLARQUANT_ATTENTION", "theirs")):
            with self.subTest(variable=name):
                self.refused(run(ARGUMENTS, env=environment(**{name: value})), name)
                self.refused(run(ARGUMENTS, env=environment(**{name: value}, **self.new_machine)),
                             name)
        self.refused(run(ARGUMENTS, before=["--kv", "turbo9"]), "turbo9")

    def test_a_llama_cpp_of_another_commit_is_refused(self):
        shim = support.BUILD / "tests" / "libother_commit.so"
        self.assertTrue(shim.is_file())
        for machine in ({}, self.new_machine):
            self.refused(run(ARGUMENTS, env=environment(LD_PRELOAD=str(shim), **machine)),
                         "fffffff")


if __name__ == "__main__":
    unittest.main()
