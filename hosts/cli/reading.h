// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. What a model is given to read when its keys are looked at.
#pragma once

#include <string>
#include <vector>

#include "llama_session.h"

namespace polarquant::cli {

struct Reading {
  std::vector<llama_token> tokens;
  std::string source;  // for people
};

// The texts' tokens, at most `num_tokens` of them; the essay that comes with us without texts, and
// random tokens for a model that has no vocabulary of words.
Reading ReadFor(const Model& model, const std::vector<std::string>& texts, int num_tokens);

}  // namespace polarquant::cli
