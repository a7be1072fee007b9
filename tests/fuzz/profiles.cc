// SPDX-License-Identifier: Apache-2.0
#include "fuzz.h"
#include "polarquant/model_profile.h"

namespace {

std::string Good() {
  using namespace polarquant;
  ModelProfile profile;
  profile.model = "some";
  profile.architecture = "llama";
  profile.fingerprint = std::string(32, 'a');
  profile.text = "text";
  profile.tokens = 256;
  Rope rope;
  rope.pairing = Rope::Pairing::kHalves;
  rope.dims = 16;
  KeyObserver observer(0, 1, 16, rope);
  std::vector<float> rows(128 * 16);  // twice: an observer wants 256
  std::vector<int32_t> positions(128);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 7 % 13) - 6.0f;
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  for (int page = 0; page < 2; ++page) {
    observer.AddQueries(rows.data(), 128, 16, 1, 16);
    observer.AddPage(rows.data(), 128, 16, positions.data());
  }
  profile.layers.push_back(observer.Finish());
  return profile.Print();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polarquant;
  static const std::string good = Good();
  const std::string bytes =
      size % 2 == 1 ? std::string(fuzz::Text(data, size)) : fuzz::Edited(good, data, size);
  try {
    const ModelProfile profile = ModelProfile::Parse(bytes);
    fuzz::Expect(!profile.Print().empty(), "what parses prints");
  } catch (const Error&) {
  }
  return 0;
}
