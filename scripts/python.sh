#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the wheel of the Python package, installs it into a virtual environment of its own in the
# cache folder, and tests it there. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
home=$CACHE/python
venv=$home/venv
older=$home/transformers-4
tests=$ROOT/hosts/python/tests
python=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

# fresh FOLDER REQUIREMENTS: whether FOLDER has what is required, for this python3.
stamp() { { python3 -VV; echo "$venv"; cat "$1"; } | sha256sum | cut -d' ' -f1; }
fresh() { [[ -f $1/.stamp && $(<"$1/.stamp") == $(stamp "$2") ]]; }

requirements=hosts/python/requirements-test.txt
if ! fresh "$venv" "$requirements"; then
  "$ROOT/scripts/packages.sh" build python
  need_space "$home" 4000 'a virtual environment with torch'
  say 'making a virtual environment'
  rm -rf "$venv"
  python3 -m venv "$venv"
  (logged python-requirements "$python" -m pip install -r "$requirements") ||
    die "pip cannot install $requirements" \
      'this step needs the Python package registry; see the log above'
  stamp "$requirements" >"$venv/.stamp"
fi
requirements=hosts/python/requirements-contract.txt
if ! fresh "$older" "$requirements"; then
  say 'installing the oldest transformers'
  rm -rf "$older"
  (logged python-contract "$python" -m pip install --no-deps --target "$older" \
    -r "$requirements") || die "pip cannot install $requirements" \
    'this step needs the Python package registry; see the log above'
  stamp "$requirements" >"$older/.stamp"
fi

say 'style (Python)'
"$venv/bin/ruff" check --no-cache --quiet hosts/python
"$venv/bin/ruff" format --no-cache --quiet --check hosts/python

say 'building the wheel'
wheels=$ROOT/build/python/wheels
rm -rf "$wheels"
if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
export CMAKE_BUILD_PARALLEL_LEVEL=$JOBS
# The build tools are those of the environment, so the build tree stays good from run to run.
PATH=$venv/bin:$PATH logged python-wheel "$python" -m pip wheel "$ROOT" --no-deps \
  --no-build-isolation --wheel-dir "$wheels" --config-settings "build-dir=$ROOT/build/python/tree"
logged python-install "$python" -m pip install --no-index --no-deps --force-reinstall "$wheels"/*.whl

MODEL=${MODEL:-$(scripts/model.sh)}
export PQ_TEST_MODEL=$MODEL
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
cd "$elsewhere"
export OMP_WAIT_POLICY=passive  # two of everything on a busy machine: nobody should spin
pytest=("$python" -m pytest -c "$ROOT/pyproject.toml" --rootdir "$tests" -p no:cacheprovider -q
  "$tests" "$@")
say 'tests (Python)'
"${pytest[@]}"
say "tests (Python, $(sed -n 's/^transformers==/transformers /p' "$ROOT/$requirements"))"
# Arguments may leave nothing of these, which pytest says with 5.
PYTHONPATH=$older "${pytest[@]}" -m contract || (($? == 5 && $# > 0))
