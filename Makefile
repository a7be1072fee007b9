# SPDX-License-Identifier: Apache-2.0
# The commands of the house. The work is done by scripts/ and CMakePresets.json.
PREFIX ?= /usr/local

.PHONY: help demo test test-all build python install format tidy clean

help:
	@echo 'make demo                install what is missing, build, and measure on a small real model'
	@echo 'make test                install what is missing, build, and run every test and check'
	@echo 'make test-all            the same with every test under the sanitizers, fuzzing and all of clang-tidy'
	@echo 'make build               the release build with its tests, in build/release'
	@echo 'make python              the Python wheel, in build/python/wheels, and its tests'
	@echo 'make install PREFIX=DIR  the command, the plug-in, the library and its headers'
	@echo 'make format              clang-format over every C++ file'
	@echo 'make tidy                clang-tidy over the release build'
	@echo 'make clean               remove build/ (the cache folder stays)'
	@echo
	@echo 'LLAMA_CPP=DIR uses a built llama.cpp source tree, MODEL=FILE another model (demo, test),'
	@echo 'POLARQUANT_CACHE=DIR another cache folder, JOBS=N that many compilers at once.'

demo:
	@scripts/demo.sh

test:
	@scripts/test.sh

test-all:
	@scripts/test.sh all

build:
	@scripts/packages.sh build test
	@scripts/llama.sh
	@scripts/build.sh release -DPQ_TESTS=ON

python:
	@scripts/python.sh

install:
	@scripts/install.sh '$(PREFIX)'

format:
	@scripts/format.sh

tidy: build
	@scripts/tidy.sh

clean:
	rm -rf build
