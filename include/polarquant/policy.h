// SPDX-License-Identifier: Apache-2.0
// What a cache keeps how: schemes for keys and values, exceptions by layer, window and sinks.
// Plain data: printed, parsed and saved as JSON. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "polarquant/scheme.h"

namespace polarquant {

struct LayerRule {
  // Layers are counted among those that have keys and values, from 0; negative counts from the
  // end (-1 is the last). Both ends included.
  int first = 0;
  int last = 0;
  Scheme key;
  Scheme value;
  bool operator==(const LayerRule&) const = default;
};

struct Policy {
  Scheme key;
  Scheme value;
  int window_tokens = 128;        // the newest rows kept exact (16 bit), 0..65536
  int sink_tokens = 16;           // the first cells a sequence can see kept exact, 0..1024
  int page_tokens = 128;          // rows encoded together: 64, 128 or 256
  int max_partial_pages = 8;      // partly filled pages kept exact before the oldest closes short
  std::vector<LayerRule> layers;  // later rules win
  // Files of models' profiles (polarquant/model_profile.h), for schemes that need one.
  std::vector<std::string> profiles;

  bool needs_profile() const;  // whether any scheme does
  bool needs_dense() const;    // and dense maps in it

  // The scheme of a role in layer `layer` of `num_layers` (layers with a cache only).
  const Scheme& SchemeFor(Role role, int layer, int num_layers) const;

  // {"key":"turbo4","value":"turbo3","window":128,"sinks":16,"page_tokens":128,
  //  "max_partial_pages":8,"layers":[{"first":0,"last":1,"key":"q8_0","value":"q8_0"}],
  //  "profiles":["model.profile"]}
  // Every key is optional on parsing, unknown keys are an error (kFormat).
  static Policy Parse(std::string_view json);
  static Policy Load(const std::string& path);
  std::string ToJson() const;
  void Save(const std::string& path) const;

  // Throws Error(kParameter) naming the first value outside its range.
  void Check() const;

  bool operator==(const Policy&) const = default;
};

}  // namespace polarquant
