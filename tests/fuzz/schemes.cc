// SPDX-License-Identifier: Apache-2.0
#include "fuzz.h"
#include "polarquant/scheme.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polarquant;
  try {
    const auto [key, value] = Scheme::ParsePair(fuzz::Text(data, size));
    fuzz::Expect(Scheme::Parse(key.ToString()) == key, "a scheme's spelling parses to it");
    fuzz::Expect(Scheme::Parse(value.ToString()) == value, "a scheme's spelling parses to it");
  } catch (const Error&) {
  }
  return 0;
}
