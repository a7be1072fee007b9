# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: where things are, and stock programs with or without us."""

import array
import contextlib
import json
import math
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

BUILD = pathlib.Path(os.environ["PQ_TEST_BUILD"])
LLAMA = pathlib.Path(os.environ["PQ_TEST_LLAMA"])
MODEL = os.environ.get("PQ_TEST_MODEL", "")
TESTS = pathlib.Path(__file__).resolve().parent
ESSAY = TESTS.parent / "testdata" / "essay.txt"
PASSAGES = ESSAY.with_name("passages.txt")
PLUGIN = BUILD / "lib" / "libggml-polarquant.so"
COMMAND = BUILD / "bin" / "polarquant"
RANDOM_GGUF = BUILD / "tests" / "random_gguf"
BIASED_GGUF = BUILD / "tests" / "biased_gguf"
LOGITS = BUILD / "tests" / "logits"
THREADS = str(min(os.cpu_count() or 2, 4))


def stock():
    """The environment of a stock program that does not know of us."""
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(("POLARQUANT_", "LLAMA_ARG_", "GGML_"))}
    env["OMP_WAIT_POLICY"] = "passive"  # spinning threads starve each other on a busy machine
    return env


def owned(kv, **settings):
    """The environment in which a stock program loads the plug-in; window=0 is POLARQUANT_WINDOW."""
    env = stock()
    env.update(GGML_BACKEND_PATH=str(PLUGIN), LLAMA_ARG_DEVICE="POLARQUANT", POLARQUANT_KV=kv)
    env.update({f"POLARQUANT_{name.upper()}": str(value) for name, value in settings.items()})
    return env


def run(arguments, env, timeout=600, status=0):
    """Runs a program to its end; returns its completed process, text in and out."""
    process = subprocess.run([str(word) for word in arguments], env=env, text=True,
                             errors="replace", capture_output=True, timeout=timeout,
                             stdin=subprocess.DEVNULL)
    if status is not None and process.returncode != status:
        raise AssertionError(f"{' '.join(map(str, arguments))}: exit {process.returncode}\n"
                             f"{process.stdout[-2000:]}\n{process.stderr[-4000:]}")
    return process


def read_events(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def logits(model, env, *script):
    """All logits that the script of cache operations gives (logits.cc)."""
    with tempfile.NamedTemporaryFile() as file:
        run([LOGITS, model, file.name, *script], env)
        values = array.array("f")
        values.frombytes(file.read())
    return values


def tune(model, path):
    """Makes the model's profile; returns where."""
    run([COMMAND, "tune", "-m", model, "--tokens", 2048, "-t", THREADS, "-o", path], stock())
    return path


def relative_error(values, reference):
    """Root mean square of the difference, in standard deviations of the reference."""
    if len(values) != len(reference):
        raise AssertionError(f"{len(values)} logits instead of {len(reference)}")
    if not all(map(math.isfinite, values)):
        raise AssertionError("logits that are not finite")
    mean = sum(reference) / len(reference)
    variance = sum((x - mean) ** 2 for x in reference)
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(values, reference)) / variance)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running llama-server. Use as a context manager."""

    def __init__(self, env, *arguments, program=None):
        self.port = _free_port()
        self.log = tempfile.NamedTemporaryFile(mode="w+", suffix=".log")
        words = program if isinstance(program, list) else [program or LLAMA / "llama-server"]
        command = [*map(str, words), "-m", MODEL, "--port", str(self.port),
                   "--host", "127.0.0.1", "-t", THREADS, "--no-warmup", *map(str, arguments)]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL)

    def __enter__(self):
        deadline = time.monotonic() + 120
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError("llama-server did not start:\n" + self.text()[-4000:])
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if self.get("/health").get("status") == "ok":
                    return self
            time.sleep(0.2)

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
            return json.load(reply)

    def post(self, path, **body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error

    def complete(self, prompt, slot, tokens, **more):
        """Greedy, so that the text depends on the logits only."""
        return self.post("/completion", prompt=prompt, id_slot=slot, n_predict=tokens,
                         temperature=0, seed=1, cache_prompt=True, **more)["content"]


class RealModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not pathlib.Path(MODEL).is_file():
            raise AssertionError("PQ_TEST_MODEL must name a GGUF file")
