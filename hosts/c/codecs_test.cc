// SPDX-License-Identifier: Apache-2.0
// The library's facts, the table of codecs and the spelling of schemes, as C sees them.
#include <set>
#include <thread>

#include "c_testing.h"
#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/scheme.h"

namespace polarquant {
namespace {

using namespace c_testing;

TEST(CLibrary, SaysItsVersionAndItsKernels) {
  pq_library_info info = PQ_LIBRARY_INFO_INIT;
  ASSERT_TRUE(Ok(pq_library(&info)));
  EXPECT_EQ(info.version_major, PQ_VERSION_MAJOR);
  EXPECT_EQ(info.version_minor, PQ_VERSION_MINOR);
  EXPECT_EQ(info.version_patch, PQ_VERSION_PATCH);
  EXPECT_STREQ(info.target, DefaultTarget().name);
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_library(nullptr), {"info is NULL"}));
}

TEST(CLibrary, FillsALongerStructWithZeros) {
  Longer<pq_library_info> info(PQ_LIBRARY_INFO_INIT);
  info.more[0] = info.more[1] = ~uint64_t{0};
  ASSERT_TRUE(Ok(pq_library(&info.known)));
  EXPECT_EQ(info.known.version_minor, PQ_VERSION_MINOR);
  EXPECT_EQ(info.known.struct_size, sizeof info);
  EXPECT_EQ(info.more[0], 0u);
  EXPECT_EQ(info.more[1], 0u);
}

TEST(CLibrary, RefusesAStructOfNoSize) {
  pq_library_info info = PQ_LIBRARY_INFO_INIT;
  for (const size_t size : {size_t{0}, sizeof info - 1, size_t{1} << 20}) {
    info.struct_size = size;
    EXPECT_TRUE(Refused(
        PQ_ERROR_PARAMETER, pq_library(&info),
        {"info.struct_size", std::to_string(size).c_str(), std::to_string(sizeof info).c_str()}));
    EXPECT_EQ(info.target, nullptr);
  }
}

TEST(CCodecs, AreTheWholeTable) {
  size_t count = 0;
  ASSERT_TRUE(Ok(pq_codec_count(&count)));
  ASSERT_EQ(count, Codecs().size());
  for (size_t c = 0; c < count; ++c) {
    const CodecInfo& codec = Codecs()[c];
    pq_codec_info info = PQ_CODEC_INFO_INIT;
    ASSERT_TRUE(Ok(pq_codec_at(c, &info)));
    EXPECT_EQ(info.name, codec.name);
    EXPECT_EQ(info.summary, codec.summary);
    EXPECT_EQ(info.source, codec.source);
    EXPECT_EQ(info.code_bits, codec.code_bits);
    EXPECT_EQ(info.keys != 0, codec.keys);
    EXPECT_EQ(info.values != 0, codec.values);
    EXPECT_EQ(info.rotates != 0, codec.rotates);
    EXPECT_EQ(info.scale_rules != 0, codec.scale_rules);
    EXPECT_EQ(info.normalises != 0, codec.normalises);
    ASSERT_EQ(info.num_options, codec.options.size());
    for (size_t o = 0; o < info.num_options; ++o) {
      pq_codec_option option = PQ_CODEC_OPTION_INIT;
      ASSERT_TRUE(Ok(pq_codec_option_at(c, o, &option)));
      EXPECT_EQ(option.name, codec.options[o].name);
      EXPECT_EQ(option.summary, codec.options[o].summary);
      EXPECT_EQ(option.values, ValuesOf(codec.options[o]));
      EXPECT_EQ(option.usual, SpellingOf(codec.options[o], codec.options[o].usual));
    }
    pq_codec_option none = PQ_CODEC_OPTION_INIT;
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_codec_option_at(c, info.num_options, &none),
                        {"index is", std::to_string(info.num_options).c_str()}));
  }
}

TEST(CCodecs, RefuseIndicesPastTheEndAndNull) {
  const size_t count = Codecs().size();
  pq_codec_info info = PQ_CODEC_INFO_INIT;
  pq_codec_option option = PQ_CODEC_OPTION_INIT;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_codec_at(count, &info),
                      {"index is", std::to_string(count).c_str()}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_codec_option_at(count, 0, &option), {"codec is"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_codec_at(0, nullptr), {"info is NULL"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_codec_count(nullptr), {"count is NULL"}));
  info.struct_size = 8;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_codec_at(0, &info), {"info.struct_size is 8"}));
}

TEST(CCodecs, MayBeAskedFromSeveralThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      pq_codec_info info = PQ_CODEC_INFO_INIT;
      EXPECT_TRUE(Ok(pq_codec_at(0, &info)));
      EXPECT_EQ(info.name, Codecs()[0].name);
      EXPECT_NE(pq_codec_at(SIZE_MAX, &info), PQ_OK);
      EXPECT_NE(std::string(pq_last_error()).find("index is"), std::string::npos);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(CSchemes, AreSpelledCanonically) {
  for (const char* text : {"turbo4:center", "turbo2:sharpen=105:scale=mse", "q8_0:rotate=none"}) {
    char spelling[64];
    size_t needed = 0;
    ASSERT_TRUE(Ok(pq_scheme_spelling(text, spelling, sizeof spelling, &needed)));
    EXPECT_EQ(spelling, Scheme::Parse(text).ToString());
    EXPECT_EQ(needed, std::string(spelling).size() + 1);
    EXPECT_TRUE(Ok(pq_scheme_spelling(text, spelling, needed, nullptr)));
    spelling[0] = '#';
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_scheme_spelling(text, spelling, needed - 1, &needed),
                        {"capacity", std::to_string(needed).c_str()}));
    EXPECT_EQ(spelling[0], '#');
  }
  size_t needed = 0;
  EXPECT_EQ(pq_scheme_spelling("turbo4", nullptr, 0, &needed), PQ_ERROR_PARAMETER);
  EXPECT_EQ(needed, 7u);
}

TEST(CSchemes, ComeInPairs) {
  char spelling[64];
  ASSERT_TRUE(
      Ok(pq_scheme_of_role("turbo4:balanced/turbo3", PQ_KEY, spelling, sizeof spelling, nullptr)));
  EXPECT_STREQ(spelling, "turbo4:balanced");
  ASSERT_TRUE(Ok(
      pq_scheme_of_role("turbo4:balanced/turbo3", PQ_VALUE, spelling, sizeof spelling, nullptr)));
  EXPECT_STREQ(spelling, "turbo3");
  ASSERT_TRUE(Ok(pq_scheme_of_role("f16", PQ_VALUE, spelling, sizeof spelling, nullptr)));
  EXPECT_STREQ(spelling, "f16");
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER,
                      pq_scheme_of_role("f16", 2, spelling, sizeof spelling, nullptr),
                      {"role is 2", "PQ_KEY", "PQ_VALUE"}));
  EXPECT_TRUE(Refused(PQ_ERROR_FORMAT,
                      pq_scheme_of_role("f16/no", PQ_KEY, spelling, sizeof spelling, nullptr),
                      {"\"no\""}));
}

TEST(CSchemes, SayWhatTheyNeedAndWhetherTheyAreFast) {
  int32_t flag = -1;
  ASSERT_TRUE(Ok(pq_scheme_needs_profile("turbo4:balanced", &flag)));
  EXPECT_EQ(flag, 1);
  ASSERT_TRUE(Ok(pq_scheme_needs_profile("turbo4:center", &flag)));
  EXPECT_EQ(flag, 0);
  for (const CodecInfo& codec : Codecs()) {
    const std::string name(codec.name);
    ASSERT_TRUE(Ok(pq_scheme_has_fast_path(name.c_str(), 128, &flag)));
    EXPECT_EQ(flag != 0, HasFastPath(Scheme::Parse(name), 128)) << name;
  }
  EXPECT_TRUE(
      Refused(PQ_ERROR_UNSUPPORTED, pq_scheme_has_fast_path("turbo4", 60, &flag), {"60", "1024"}));
}

TEST(CSchemes, RefuseWhatIsNone) {
  char spelling[64];
  int32_t flag = 0;
  EXPECT_TRUE(Refused(PQ_ERROR_FORMAT, pq_scheme_spelling("turbo9", spelling, 64, nullptr),
                      {"turbo9", "turbo4"}));
  EXPECT_TRUE(Refused(PQ_ERROR_FORMAT, pq_scheme_needs_profile("", &flag), {"codec \"\""}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_scheme_spelling(nullptr, spelling, 64, nullptr),
                      {"text is NULL"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_scheme_spelling("f16", nullptr, 64, nullptr),
                      {"spelling is NULL"}));
  EXPECT_TRUE(
      Refused(PQ_ERROR_PARAMETER, pq_scheme_needs_profile("f16", nullptr), {"needs_profile"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_scheme_needs_profile(nullptr, &flag), {"text"}));
  EXPECT_TRUE(
      Refused(PQ_ERROR_PARAMETER, pq_scheme_has_fast_path("f16", 64, nullptr), {"fast is NULL"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_scheme_has_fast_path(nullptr, 64, &flag), {"text"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_scheme_of_role(nullptr, PQ_KEY, spelling, 64, nullptr),
                      {"pair"}));
}

}  // namespace
}  // namespace polarquant
