// SPDX-License-Identifier: Apache-2.0
// Pages through C: the same bytes and the same values as through C++.
#include "polarquant/page.h"

#include <cstring>
#include <limits>
#include <thread>

#include "c_testing.h"
#include "polarquant/codec.h"

namespace polarquant {
namespace {

using namespace c_testing;

constexpr int kDim = 64;
constexpr int kTokens = 64;

// One format both ways.
struct Both {
  std::string scheme;
  pq_role role;
  Floats scales = Scales(kDim);
  PageFormatPtr c;
  std::unique_ptr<PageFormat> cpp;
  pq_page_sizes sizes = PQ_PAGE_SIZES_INIT;

  explicit Both(const std::string& text, pq_role r = PQ_KEY) : scheme(text), role(r) {
    pq_key_profile profile = PQ_KEY_PROFILE_INIT;
    profile.balance = scales.data();
    pq_page_config config = PQ_PAGE_CONFIG_INIT;
    config.scheme = scheme.c_str();
    config.role = role;
    config.head_dim = kDim;
    config.page_tokens = kTokens;
    config.profile = &profile;
    pq_page_format* format = nullptr;
    EXPECT_TRUE(Ok(pq_page_format_create(&config, &format))) << scheme;
    c.reset(format);
    KeyMap map;
    map.balance = scales;
    cpp = std::make_unique<PageFormat>(
        Scheme::Parse(scheme), role == PQ_KEY ? Role::kKey : Role::kValue, kDim, kTokens, map);
    EXPECT_TRUE(Ok(pq_page_format_sizes(c.get(), &sizes)));
  }

  Page Encoded(const Floats& rows, int count) const {
    Page page(sizes.page_bytes);
    EXPECT_TRUE(Ok(pq_page_encode(c.get(), rows.data(), kDim, count, page.data(), page.size())));
    return page;
  }
};

std::vector<std::pair<std::string, pq_role>> AllSchemes() {
  std::vector<std::pair<std::string, pq_role>> all = {{"turbo4:center", PQ_KEY},
                                                      {"turbo3:balanced", PQ_KEY},
                                                      {"turbo2:center:scale=mse", PQ_VALUE}};
  for (const CodecInfo& codec : Codecs()) {
    if (codec.keys) all.emplace_back(codec.name, PQ_KEY);
    if (codec.values) all.emplace_back(codec.name, PQ_VALUE);
  }
  return all;
}

TEST(CPage, HasTheBytesAndTheValuesOfEveryCodec) {
  const Floats rows = Random(kTokens * kDim, 1);
  for (const auto& [scheme, role] : AllSchemes()) {
    SCOPED_TRACE(scheme + (role == PQ_KEY ? " keys" : " values"));
    const Both both(scheme, role);
    EXPECT_EQ(both.sizes.page_bytes, both.cpp->page_bytes());
    EXPECT_EQ(both.sizes.record_bytes, both.cpp->record_bytes());
    EXPECT_EQ(both.sizes.header_bytes, both.cpp->header_bytes());
    EXPECT_EQ(both.sizes.group_tokens, both.cpp->group_tokens());
    EXPECT_EQ(both.sizes.code_bits, both.cpp->code_bits());
    EXPECT_EQ(both.sizes.bits_per_value, both.cpp->bits_per_value());
    for (const int count : {kTokens, 5}) {
      Page page = both.Encoded(rows, count), expected(both.sizes.page_bytes);
      both.cpp->EncodePage(rows.data(), count, expected.data());
      EXPECT_EQ(page, expected);
      Floats got(rows.size()), want(rows.size());
      ASSERT_TRUE(
          Ok(pq_page_decode(both.c.get(), page.data(), page.size(), count, got.data(), kDim)));
      both.cpp->DecodePage(expected.data(), count, want.data());
      EXPECT_EQ(got, want);
    }
  }
}

TEST(CPage, PatchesAndReadsSingleRows) {
  const Floats rows = Random(kTokens * kDim, 2), other = Random(kDim, 3);
  for (const auto& [scheme, role] : AllSchemes()) {
    SCOPED_TRACE(scheme);
    const Both both(scheme, role);
    Page page = both.Encoded(rows, kTokens), expected = page;
    ASSERT_TRUE(Ok(pq_page_encode_row(both.c.get(), page.data(), page.size(), 63, other.data())));
    both.cpp->EncodeRow(expected.data(), 63, other.data());
    EXPECT_EQ(page, expected);
    Floats got(kDim), want(kDim);
    ASSERT_TRUE(Ok(pq_page_decode_row(both.c.get(), page.data(), page.size(), 63, got.data())));
    both.cpp->DecodeRow(expected.data(), 63, want.data());
    EXPECT_EQ(got, want);
  }
}

TEST(CPage, IsMadeAnewFromItsRecordsAndHeaders) {
  const Floats rows = Random(kTokens * kDim, 4);
  for (const auto& [scheme, role] : AllSchemes()) {
    SCOPED_TRACE(scheme);
    const Both both(scheme, role);
    Page page = both.Encoded(rows, kTokens), copy(both.sizes.page_bytes);
    std::vector<std::byte> record(both.sizes.record_bytes), header(both.sizes.header_bytes);
    for (int64_t r = 0; r < kTokens; ++r) {
      ASSERT_TRUE(Ok(pq_page_read_record(both.c.get(), page.data(), page.size(), r, record.data(),
                                         record.size())));
      ASSERT_TRUE(Ok(pq_page_read_header(both.c.get(), page.data(), page.size(), r, header.data(),
                                         header.size())));
      ASSERT_TRUE(Ok(pq_page_write_header(both.c.get(), copy.data(), copy.size(), r, header.data(),
                                          header.size())));
      ASSERT_TRUE(Ok(pq_page_write_record(both.c.get(), copy.data(), copy.size(), r, record.data(),
                                          record.size())));
    }
    EXPECT_EQ(copy, page);
  }
}

TEST(CPage, TakesAndGivesRowsWithAStride) {
  const Both both("turbo4:center");
  const Floats rows = Random(kTokens * kDim, 5);
  constexpr int64_t kStride = kDim + 9;
  Floats apart(kTokens * kStride, 7.0f);
  for (int r = 0; r < kTokens; ++r) {
    std::copy_n(rows.data() + r * kDim, kDim, apart.data() + r * kStride);
  }
  Page page(both.sizes.page_bytes);
  ASSERT_TRUE(
      Ok(pq_page_encode(both.c.get(), apart.data(), kStride, kTokens, page.data(), page.size())));
  EXPECT_EQ(page, both.Encoded(rows, kTokens));
  Floats dense(rows.size()), sparse(apart.size(), 7.0f);
  ASSERT_TRUE(
      Ok(pq_page_decode(both.c.get(), page.data(), page.size(), kTokens, dense.data(), kDim)));
  ASSERT_TRUE(
      Ok(pq_page_decode(both.c.get(), page.data(), page.size(), kTokens, sparse.data(), kStride)));
  for (int r = 0; r < kTokens; ++r) {
    EXPECT_EQ(std::memcmp(sparse.data() + r * kStride, dense.data() + r * kDim, 4 * kDim), 0);
    for (int i = kDim; i < kStride; ++i)
      EXPECT_EQ(sparse[static_cast<size_t>(r * kStride + i)], 7.0f);
  }
}

TEST(CPage, MakesUglyValuesHarmless) {
  const Both both("turbo4");
  Floats rows = Random(kTokens * kDim, 6);
  rows[0] = std::numeric_limits<float>::quiet_NaN();
  rows[1] = std::numeric_limits<float>::infinity();
  rows[kDim] = -1e30f;
  Page page = both.Encoded(rows, kTokens);
  Floats got(rows.size());
  ASSERT_TRUE(
      Ok(pq_page_decode(both.c.get(), page.data(), page.size(), kTokens, got.data(), kDim)));
  for (const float value : got) EXPECT_TRUE(std::isfinite(value));
}

TEST(CPage, KnowsItsSizesWithoutAProfileButEncodesNothing) {
  pq_page_config config = PQ_PAGE_CONFIG_INIT;
  config.scheme = "turbo4:balanced";
  config.head_dim = kDim;
  pq_page_format* format = nullptr;
  ASSERT_TRUE(Ok(pq_page_format_create(&config, &format)));
  const PageFormatPtr owner(format);
  pq_page_sizes sizes = PQ_PAGE_SIZES_INIT;
  ASSERT_TRUE(Ok(pq_page_format_sizes(format, &sizes)));
  EXPECT_GT(sizes.bits_per_value, 4.0);
  Page page(sizes.page_bytes);
  const Floats rows = Random(kDim, 1);
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER,
                      pq_page_encode(format, rows.data(), kDim, 1, page.data(), page.size()),
                      {"turbo4:balanced", "64 balance scales"}));
}

TEST(CPage, RefusesFormatsThatAreNone) {
  const auto refused = [](pq_status status, auto change, std::initializer_list<const char*> words) {
    pq_page_config config = PQ_PAGE_CONFIG_INIT;
    config.scheme = "turbo4";
    config.head_dim = kDim;
    change(config);
    const Both any("f16");
    pq_page_format* format = any.c.get();  // not null before
    EXPECT_TRUE(Refused(status, pq_page_format_create(&config, &format), words));
    EXPECT_EQ(format, nullptr);
  };
  using Config = pq_page_config;
  refused(PQ_ERROR_FORMAT, [](Config& c) { c.scheme = "turbo"; }, {"\"turbo\"", "turbo4"});
  refused(PQ_ERROR_FORMAT, [](Config& c) { c.scheme = "turbo4:centre"; }, {"centre"});
  refused(PQ_ERROR_PARAMETER, [](Config& c) { c.scheme = nullptr; }, {"scheme is NULL"});
  refused(PQ_ERROR_UNSUPPORTED, [](Config& c) { c.head_dim = 60; }, {"60", "16", "1024"});
  refused(PQ_ERROR_UNSUPPORTED, [](Config& c) { c.head_dim = -64; }, {"-64"});
  refused(PQ_ERROR_UNSUPPORTED, [](Config& c) { c.page_tokens = 100; }, {"100", "64, 128 or 256"});
  refused(PQ_ERROR_PARAMETER, [](Config& c) { c.role = 7; }, {"role is 7"});
  refused(PQ_ERROR_PARAMETER, [](Config& c) { c.reserved = 1; }, {"reserved is 1"});
  refused(PQ_ERROR_PARAMETER, [](Config& c) { c.struct_size = 0; }, {"config.struct_size is 0"});
  refused(PQ_ERROR_UNSUPPORTED, [](Config& c) { c.scheme = "turbo4:balanced", c.role = PQ_VALUE; },
          {"for keys"});
  pq_page_format* format = nullptr;
  EXPECT_TRUE(
      Refused(PQ_ERROR_PARAMETER, pq_page_format_create(nullptr, &format), {"config is NULL"}));
  const pq_page_config config = PQ_PAGE_CONFIG_INIT;
  EXPECT_TRUE(
      Refused(PQ_ERROR_PARAMETER, pq_page_format_create(&config, nullptr), {"format is NULL"}));
  EXPECT_TRUE(Ok(pq_page_format_destroy(nullptr)));
}

TEST(CPage, TakesTheConfigurationOfALaterVersionUnlessItAsksForMore) {
  pq_page_config plain = PQ_PAGE_CONFIG_INIT;
  plain.scheme = "turbo4";
  plain.head_dim = kDim;
  Longer<pq_page_config> config(plain);
  pq_page_format* format = nullptr;
  ASSERT_TRUE(Ok(pq_page_format_create(&config.known, &format)));
  ASSERT_TRUE(Ok(pq_page_format_destroy(format)));
  config.more[1] = 1;
  EXPECT_TRUE(Refused(PQ_ERROR_UNSUPPORTED, pq_page_format_create(&config.known, &format),
                      {"config", "does not know", std::to_string(sizeof plain).c_str()}));
}

TEST(CPage, RefusesRowsAndPagesThatDoNotFit) {
  const Both both("turbo4:center");
  const pq_page_format* f = both.c.get();
  const Floats rows = Random(2 * kDim, 1);
  Floats out(2 * kDim);
  Page page = both.Encoded(rows, 2);
  std::byte* p = page.data();
  const size_t n = page.size();
  const auto parameter = [](pq_status status, std::initializer_list<const char*> words) {
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, status, words));
  };
  parameter(pq_page_encode(nullptr, rows.data(), kDim, 2, p, n), {"format is NULL"});
  parameter(pq_page_encode(f, nullptr, kDim, 2, p, n), {"rows is NULL"});
  parameter(pq_page_encode(f, rows.data(), kDim, 2, nullptr, n), {"page is NULL"});
  parameter(pq_page_encode(f, rows.data(), kDim, 65, p, n), {"count is 65", "between 0 and 64"});
  parameter(pq_page_encode(f, rows.data(), kDim, -1, p, n), {"count is -1"});
  parameter(pq_page_encode(f, rows.data(), kDim - 1, 2, p, n), {"row_stride is 63", "64"});
  parameter(pq_page_encode(f, rows.data(), kDim, 2, p, n - 1),
            {"page_bytes", std::to_string(n - 1).c_str(), std::to_string(n).c_str()});
  parameter(pq_page_encode(f, rows.data(), kDim, 2, p + 4, n), {"page lies 4 bytes", "64"});
  parameter(pq_page_decode(f, p, n, 65, out.data(), kDim), {"count is 65"});
  parameter(pq_page_decode(f, p, n, 2, out.data(), 0), {"row_stride is 0"});
  parameter(pq_page_decode(f, p, n, 2, nullptr, kDim), {"rows is NULL"});
  parameter(pq_page_decode(f, nullptr, n, 2, out.data(), kDim), {"page is NULL"});
  parameter(pq_page_encode_row(f, p, n, 64, rows.data()), {"index is 64", "between 0 and 63"});
  parameter(pq_page_encode_row(f, p, n, 0, nullptr), {"row is NULL"});
  parameter(pq_page_decode_row(f, p, n, -1, out.data()), {"index is -1"});
  parameter(pq_page_decode_row(f, p, n, 0, nullptr), {"row is NULL"});
  std::vector<std::byte> bytes(both.sizes.record_bytes + both.sizes.header_bytes);
  parameter(pq_page_read_record(f, p, n, 0, bytes.data(), 1), {"record_bytes is 1"});
  parameter(pq_page_read_record(f, p, n, 64, bytes.data(), both.sizes.record_bytes), {"index"});
  parameter(pq_page_read_record(f, p, n, 0, nullptr, both.sizes.record_bytes), {"record is NULL"});
  parameter(pq_page_write_record(f, p, n, 0, bytes.data(), 1), {"record_bytes is 1"});
  parameter(pq_page_write_record(f, p, n, 0, nullptr, both.sizes.record_bytes), {"record is NULL"});
  parameter(pq_page_read_header(f, p, n, 0, bytes.data(), 1), {"header_bytes is 1"});
  parameter(pq_page_read_header(f, p, n, 0, nullptr, both.sizes.header_bytes), {"header is NULL"});
  parameter(pq_page_write_header(f, p, n, 0, bytes.data(), 1), {"header_bytes is 1"});
  parameter(pq_page_write_header(f, p, n, 0, nullptr, both.sizes.header_bytes), {"header is NULL"});
  pq_page_sizes sizes = PQ_PAGE_SIZES_INIT;
  parameter(pq_page_format_sizes(nullptr, &sizes), {"format is NULL"});
  parameter(pq_page_format_sizes(f, nullptr), {"sizes is NULL"});
  sizes.struct_size = 9;
  parameter(pq_page_format_sizes(f, &sizes), {"sizes.struct_size is 9"});
  EXPECT_TRUE(Ok(pq_page_encode(f, nullptr, 0, 0, p, n)));  // an empty page is one
}

TEST(CPage, DecodesWhateverBytesThereAre) {
  std::mt19937 random(9);
  for (const auto& [scheme, role] : AllSchemes()) {
    SCOPED_TRACE(scheme);
    const Both both(scheme, role);
    Page page(both.sizes.page_bytes);
    for (size_t i = 0; i < page.size(); ++i) page.data()[i] = static_cast<std::byte>(random());
    Floats got(kTokens * kDim);
    EXPECT_TRUE(
        Ok(pq_page_decode(both.c.get(), page.data(), page.size(), kTokens, got.data(), kDim)));
  }
}

TEST(CPage, IsCodedByManyThreadsWithOneFormat) {
  const Both both("turbo4:center");
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&both, t] {
      const Floats rows = Random(kTokens * kDim, t);
      Page page = both.Encoded(rows, kTokens), expected(both.sizes.page_bytes);
      both.cpp->EncodePage(rows.data(), kTokens, expected.data());
      EXPECT_EQ(page, expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace polarquant
