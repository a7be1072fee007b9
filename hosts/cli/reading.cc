// SPDX-License-Identifier: Apache-2.0
#include "reading.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "paths.h"

namespace polarquant::cli {

Reading ReadFor(const Model& model, const std::vector<std::string>& texts, int num_tokens) {
  Reading reading;
  if (!model.has_words()) {
    fmt::print(stderr, "polarquant: {} has no words and reads random tokens instead of text\n",
               model.path());
    std::mt19937 random(1);
    for (int i = 0; i < num_tokens; ++i) {
      reading.tokens.push_back(
          static_cast<llama_token>(random() % static_cast<unsigned>(model.vocab_size())));
    }
    reading.source = "random tokens (the model has no words)";
    return reading;
  }
  const std::vector<std::string> paths =
      texts.empty() ? std::vector<std::string>{DefaultText().string()} : texts;
  for (const std::string& path : paths) {
    const auto tokens = model.Tokenize(ReadText(path));
    reading.tokens.insert(reading.tokens.end(), tokens.begin(), tokens.end());
    reading.source += reading.source.empty() ? "" : ", ";
    reading.source += std::filesystem::path(path).filename().string();
  }
  reading.tokens.resize(std::min(reading.tokens.size(), static_cast<size_t>(num_tokens)));
  return reading;
}

}  // namespace polarquant::cli
