# SPDX-License-Identifier: Apache-2.0
"""The package as installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys

import polarquant


def test_the_package_names_its_version_and_kernels():
    assert polarquant.__version__ == importlib.metadata.version("polarquant")
    assert polarquant.active_target() in ("avx512", "avx2", "scalar")


def test_it_is_the_installed_package_that_is_tested():
    files = importlib.metadata.files("polarquant")
    assert pathlib.Path(polarquant.__file__) in {file.locate().resolve() for file in files}


def test_the_wheel_says_what_it_needs():
    metadata = importlib.metadata.metadata("polarquant")
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    required = importlib.metadata.requires("polarquant")
    always = [line for line in required if "extra ==" not in line]
    assert len(always) == 1 and always[0].startswith("numpy")
    assert set(metadata.get_all("Provides-Extra")) >= {"torch", "transformers", "hf", "plots"}


def test_the_wheel_is_typed():
    names = {str(file) for file in importlib.metadata.files("polarquant")}
    assert {"polarquant/py.typed", "polarquant/_core.pyi"} <= names
    folder = pathlib.Path(polarquant.__file__).parent
    assert "class PageCodec" in (folder / "_core.pyi").read_text()


def test_the_wheel_brings_what_it_needs_and_no_more():
    names = {
        pathlib.PurePath(str(file)).parts[0] for file in importlib.metadata.files("polarquant")
    }
    assert {name for name in names if "dist-info" not in name} == {"polarquant"}
    module = importlib.util.find_spec("polarquant._core").origin
    linked = subprocess.run(["ldd", module], capture_output=True, text=True, check=True).stdout
    libraries = {line.split()[0].split("/")[-1].split(".so")[0] for line in linked.splitlines()}
    system = {"linux-vdso", "libgomp", "libstdc++", "libm", "libgcc_s", "libc", "ld-linux-x86-64"}
    assert libraries <= system | {"libpthread", "libdl", "librt"}


def test_everything_public_has_a_docstring():
    assert sorted(polarquant.__all__) == polarquant.__all__
    for name in polarquant.__all__:
        if name != "__version__":
            assert getattr(polarquant, name).__doc__, name
    for kind in (polarquant.Codec, polarquant.Encoded):
        for name, value in vars(kind).items():
            if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{kind.__name__}.{name}"


def test_it_works_where_there_is_no_torch():
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "matplotlib", "ml_dtypes"):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocked())
import numpy, polarquant
codec = polarquant.Codec("turbo3", head_dim=128)
rows = numpy.random.default_rng(0).standard_normal((2, 128)).astype("float32")
encoded = codec.encode(rows)
codec.decode(encoded, like=rows), codec.dot(rows, encoded)
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_kernels_can_be_chosen_and_write_the_same_bytes():
    program = """
import numpy, polarquant, zlib
rows = numpy.random.default_rng(0).standard_normal((300, 128)).astype("float32")
for scheme in ("turbo2", "turbo3:center", "turbo4", "q8_0"):
    print(zlib.crc32(polarquant.Codec(scheme, 128).encode(rows).pages))
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"POLARQUANT_ISA": target},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for target in ("scalar", polarquant.active_target())
    }
    assert len(outputs) == 1
