// SPDX-License-Identifier: Apache-2.0
#include "fuzz.h"
#include "polarquant/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polarquant;
  static const std::string good =
      R"({"key":"turbo4:center","value":"turbo3","window":128,"sinks":16,"page_tokens":128,)"
      R"("max_partial_pages":8,"layers":[{"first":0,"last":-1,"key":"q8_0","value":"q8_0"}],)"
      R"("profiles":["a.profile"]})";
  // Odd inputs are whole texts, even ones edit a good one.
  const std::string text =
      size % 2 == 1 ? std::string(fuzz::Text(data, size)) : fuzz::Edited(good, data, size);
  try {
    const Policy policy = Policy::Parse(text);
    fuzz::Expect(Policy::Parse(policy.ToJson()) == policy, "a policy's JSON parses to it");
  } catch (const Error&) {
  }
  return 0;
}
