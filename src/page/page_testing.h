// SPDX-License-Identifier: Apache-2.0
// What the tests of pages share: guarded pages, rows, and every scheme.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "codecs/codecs_testing.h"
#include "polarquant/page.h"

namespace polarquant {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A page with 64 guard bytes behind it.
class PageBytes {
 public:
  explicit PageBytes(const PageFormat& format)
      : size_(format.page_bytes()),
        bytes_(static_cast<std::byte*>(::operator new (size_ + 64, std::align_val_t{64}))) {
    std::memset(bytes_, 0xa5, size_ + 64);
  }
  PageBytes(const PageBytes&) = delete;
  PageBytes& operator=(const PageBytes&) = delete;
  ~PageBytes() {
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(bytes_[size_ + i], std::byte{0xa5});
    ::operator delete (bytes_, std::align_val_t{64});
  }
  std::byte* get() { return bytes_; }
  const std::byte* get() const { return bytes_; }
  bool operator==(const PageBytes& other) const {
    return size_ == other.size_ && std::memcmp(bytes_, other.bytes_, size_) == 0;
  }

 private:
  size_t size_;
  std::byte* bytes_;
};

inline std::vector<float> GaussianRows(int count, int head_dim, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(count) * static_cast<size_t>(head_dim));
  for (float& value : rows) value = normal(generator);
  return rows;
}

// Mean over rows of |x - x'|^2 / |x|^2.
inline double MeanError(const std::vector<float>& rows, const std::vector<float>& decoded,
                        int head_dim) {
  double sum = 0.0;
  const size_t width = static_cast<size_t>(head_dim);
  for (size_t r = 0; r < rows.size(); r += width) {
    double error = 0.0, energy = 0.0;
    for (size_t i = r; i < r + width; ++i) {
      error += std::pow(static_cast<double>(rows[i]) - decoded[i], 2);
      energy += static_cast<double>(rows[i]) * rows[i];
    }
    sum += error / energy;
  }
  return sum * static_cast<double>(head_dim) / static_cast<double>(rows.size());
}

inline bool Stores(const Scheme& scheme, Role role) {
  const CodecInfo& info = FindCodec(scheme.codec).info;
  return role == Role::kKey ? info.keys : info.values;
}

// One spelling of everything the tests loop over: codecs, centred or not, a few rules.
inline std::vector<std::string> Schemes() {
  std::vector<std::string> schemes;
  for (const CodecInfo& info : Codecs()) {
    schemes.emplace_back(info.name);
    if (info.normalises) schemes.push_back(std::string(info.name) + ":center");
  }
  schemes.insert(schemes.end(), {"turbo2:scale=mse",
                                 "turbo3:center:scale=norm",
                                 "turbo4:rotate=none",
                                 "q8_0:rotate=none",
                                 "dual4:codes=rtn",
                                 "kivi2:group=64",
                                 "zscore4:pad=scaled",
                                 "int4:fit=hqq",
                                 "turbo2.5:split=half",
                                 "turbo3.5:split=wide:center",
                                 "e8-3:lattice=nexus",
                                 "trellis1:code=computed",
                                 "polar:bits=52:books=online",
                                 "polar:bits=6432:books=online:center",
                                 "ropepolar:radius=2:angle=5:pairs=adjacent",
                                 "ropepolar:arc=paper",
                                 "turbo4_0:table=lloyd",
                                 "qjl:outliers=8",
                                 "qjl4:rows=gaussian:outliers=3:rotate=none",
                                 "equator:norm_bits=12"});
  return schemes;
}

template <typename Visit>
void ForEveryFormat(const std::vector<int>& head_dims, const Visit& visit) {
  for (const std::string& text : Schemes()) {
    const Scheme scheme = Scheme::Parse(text);
    for (const int head_dim : head_dims) {
      if (!codecs_testing::Takes(text, head_dim)) continue;
      for (const Role role : {Role::kKey, Role::kValue}) {
        if (!Stores(scheme, role)) continue;
        SCOPED_TRACE(text + " head_dim " + std::to_string(head_dim) +
                     (role == Role::kKey ? " keys" : " values"));
        visit(PageFormat(scheme, role, head_dim));
      }
    }
  }
}

}  // namespace polarquant
