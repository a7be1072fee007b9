// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the tables of the instruction sets this build has (x86-64 only). Call them only
// on a CPU that runs them; Targets() checks.
#pragma once

#include "kernels/kernels.h"

namespace polarquant {

const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();

}  // namespace polarquant
