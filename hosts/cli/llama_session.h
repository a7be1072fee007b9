// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. A model and contexts on it: each with a cache of its own, ours
// or llama.cpp's, timed and weighed alike.
#pragma once

#include <llama.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache_spec.h"
#include "plugin.h"

namespace polarquant::cli {

class Model {
 public:
  // Weights stay where llama.cpp keeps them for the CPU; with a plug-in, contexts may give their
  // cache to it. Throws Error(kHost).
  Model(const std::string& path, const Plugin* plugin);

  llama_model* get() const { return model_.get(); }
  const Plugin* plugin() const { return plugin_; }
  int vocab_size() const;
  llama_token first_token() const;  // what a context starts with; the end of text if there is none
  bool adds_first_token() const;
  bool has_words() const;       // whether it can read text at all
  int trained_context() const;  // tokens
  std::vector<llama_token> Tokenize(const std::string& text) const;
  std::string Describe() const;
  std::string path() const { return path_; }

 private:
  std::string path_;
  const Plugin* plugin_;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_;
};

// The same model for both kinds of cache. llama.cpp's own get a load that knows no device at all,
// as without us; weights that need no repacking are mapped once for both.
class Models {
 public:
  Models(const std::string& path, const Plugin* plugin);
  const Model& stock() const { return stock_; }
  const Model& For(const CacheSpec& spec) const { return spec.stock ? stock_ : *ours_; }

 private:
  Model stock_;
  std::optional<Model> ours_;
};

// What a cache holds now.
struct CacheSize {
  double resident_bytes = 0;
  double f16_bytes = 0;  // the filled cells in 16 bit
  double bits_per_value() const { return f16_bytes > 0 ? 16 * resident_bytes / f16_bytes : 0; }
};

class Context {
 public:
  struct Options {
    int context_tokens = 0;
    int batch_tokens = 512;        // at most this many in one Decode
    int micro_batch_tokens = 512;  // llama.cpp splits them into pieces of this many
    int num_threads = 1;
  };

  // Creates the context and decodes one token with it, so that what is missing shows now. Throws
  // Error(kHost) if llama.cpp refuses, or if a layer's cache is not where the spec wants it.
  Context(const Model& model, const CacheSpec& spec, const Options& options);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const CacheSpec& spec() const { return spec_; }
  const std::string& label() const { return spec_.label; }
  int filled_tokens() const { return filled_tokens_; }
  int num_layers() const;  // those with a cache

  // Appends tokens; returns the seconds it took. Logits are kept for positions from
  // `first_scored` on. Throws Error(kHost), Interrupted.
  double Decode(std::span<const llama_token> tokens, int first_scored);
  // Logits of the token at this index of the last Decode, valid until the next.
  std::span<const float> Logits(int index) const;
  // Forgets all tokens from a position on.
  void Rewind(int position);

  // Runs what changes this context's cache, and takes note of the memory it gains or loses. Turns
  // of different contexts must not overlap: the plug-in counts all its caches together.
  void Turn(const std::function<void()>& work);
  CacheSize size() const;

 private:
  struct CacheTensor {
    std::string name;
    double row_bytes;
    double row_values;
    int64_t num_cells;
    bool ours;
  };
  static bool Observe(ggml_tensor* node, bool ask, void* self);
  void CheckOwnership() const;

  const Model& model_;
  CacheSpec spec_;
  std::unique_ptr<llama_context, decltype(&llama_free)> context_;
  llama_batch batch_;
  std::unique_ptr<llama_batch, void (*)(llama_batch*)> batch_guard_;
  bool observing_ = true;
  std::vector<CacheTensor> tensors_;
  int filled_tokens_ = 0;
  CacheSize plugin_size_;
};

}  // namespace polarquant::cli
