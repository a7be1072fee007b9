// SPDX-License-Identifier: Apache-2.0
#include "capture_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

class CaptureFile : public testing::Test {
 protected:
  CaptureFile() : path_(testing::TempDir() + "capture." + std::to_string(getpid())) {}
  ~CaptureFile() override { std::remove(path_.c_str()); }

  void Write(const std::string& json, const std::string& data) const {
    const uint64_t length = json.size();
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof(length));
    file << json << data;
  }

  void ExpectRefused(const std::string& word) const {
    try {
      LoadCapture(path_, Role::kKey);
      ADD_FAILURE() << "nothing was refused; expected: " << word;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }

  std::string path_;
};

TEST_F(CaptureFile, GivesBackWhatWasSaved) {
  CapturedHalves keys;
  keys.layer = 12;
  keys.num_kv_heads = 2;
  keys.num_tokens = 3;
  keys.head_dim = 2;
  keys.values = {0x3c00, 0, 0xc000, 0, 0, 0, 0x3800, 0, 0, 0, 0, 0x7bff};  // 1, -2, 0.5, 65504
  CapturedHalves earlier = keys;
  earlier.layer = 3;
  CapturedHalves values = keys;
  values.role = Role::kValue;
  SaveCapture(path_, {{"model", "a \"model\""}}, {keys, values, earlier});
  const std::vector<CapturedFloats> loaded = LoadCapture(path_, Role::kKey);
  ASSERT_EQ(loaded.size(), 2u);
  EXPECT_EQ(loaded[0].layer, 3);
  EXPECT_EQ(loaded[1].layer, 12);
  EXPECT_EQ(loaded[1].num_kv_heads, 2);
  EXPECT_EQ(loaded[1].num_tokens, 3);
  EXPECT_EQ(loaded[1].head_dim, 2);
  EXPECT_EQ(loaded[1].values, (std::vector<float>{1, 0, -2, 0, 0, 0, 0.5f, 0, 0, 0, 0, 65504}));
  EXPECT_EQ(LoadCapture(path_, Role::kValue).size(), 1u);
}

TEST_F(CaptureFile, OfOthersIsReadInF32) {
  const float row[2] = {1.5f, -3};
  Write(R"({"layer.0.key":{"dtype":"F32","shape":[1,1,2],"data_offsets":[0,8]},"other":1})",
        std::string(reinterpret_cast<const char*>(row), sizeof(row)));
  EXPECT_EQ(LoadCapture(path_, Role::kKey).front().values, (std::vector<float>{1.5f, -3}));
}

TEST_F(CaptureFile, ThatIsDamagedIsRefusedByName) {
  std::ofstream(path_) << "short";
  ExpectRefused("too short");
  std::ofstream(path_) << "no safetensors at all";
  ExpectRefused("longer than the file");
  Write("[]", "");
  ExpectRefused("JSON");
  Write(R"({"layer.0.value":{}})", "");
  ExpectRefused("no tensor layer.N.key");
  Write(R"({"layer.0.key":{"dtype":"F32"}})", "");
  ExpectRefused("layer.0.key");
  Write(R"({"layer.0.key":{"dtype":"I32","shape":[1,1,2],"data_offsets":[0,8]}})", "12345678");
  ExpectRefused("f32 or f16");
  for (const char* offsets : {"[0,4]", "[4,12]", "[8,0]", "[0,8,8]"}) {
    Write(std::string(R"({"layer.0.key":{"dtype":"F32","shape":[1,1,2],"data_offsets":)") +
              offsets + "}}",
          "12345678");
    ExpectRefused("outside the file");
  }
  for (const char* shape : {"[1,1,1e300]", "[1,1,-2]", "[1,1,2.5]", "7"}) {
    Write(std::string(R"({"layer.0.key":{"dtype":"F32","data_offsets":[0,8],"shape":)") + shape +
              "}}",
          "12345678");
    ExpectRefused("no count");
  }
  const uint32_t nan[2] = {0, 0x7fc00000};
  Write(R"({"layer.0.key":{"dtype":"F32","shape":[1,1,2],"data_offsets":[0,8]}})",
        std::string(reinterpret_cast<const char*>(nan), sizeof(nan)));
  ExpectRefused("not finite");
}

TEST_F(CaptureFile, ThatIsMissingIsSaidSo) {
  EXPECT_THROW(LoadCapture(path_ + ".none", Role::kKey), Error);
}

}  // namespace
}  // namespace polarquant::cli
