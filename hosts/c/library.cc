// SPDX-License-Identifier: Apache-2.0
// Host: C. The library itself.
#include "checks.h"
#include "guard.h"
#include "polarquant/attention.h"

using namespace polarquant;
using namespace polarquant::c;

static_assert(PQ_VERSION_MAJOR == PQ_PROJECT_MAJOR && PQ_VERSION_MINOR == PQ_PROJECT_MINOR &&
                  PQ_VERSION_PATCH == PQ_PROJECT_PATCH,
              "polarquant.h and the project must have the same version");

pq_status pq_library(pq_library_info* info) {
  return Guard([&] {
    pq_library_info facts = PQ_LIBRARY_INFO_INIT;
    facts.version_major = PQ_VERSION_MAJOR;
    facts.version_minor = PQ_VERSION_MINOR;
    facts.version_patch = PQ_VERSION_PATCH;
    facts.target = DefaultTarget().name;
    Give(facts, info, "info");
  });
}
