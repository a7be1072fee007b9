# SPDX-License-Identifier: Apache-2.0
"""The package as installed."""

import polarquant


def test_the_package_names_its_version_and_kernels():
    assert polarquant.__version__.count(".") == 2
    assert polarquant.active_target() in ("avx512", "avx2", "scalar")
