// SPDX-License-Identifier: Apache-2.0
// Files of sequence caches through C.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <thread>

#include "sequence_testing.h"

namespace polarquant {
namespace {

using namespace c_testing;

// A path of this test's own, gone afterwards.
class TemporaryPath {
 public:
  TemporaryPath()
      : path_(::testing::TempDir() + "polarquant-c-" + std::to_string(getpid()) + "-" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {}
  ~TemporaryPath() { std::remove(path_.c_str()); }
  const char* c_str() const { return path_.c_str(); }

 private:
  std::string path_;
};

SavedPtr Loaded(const char* path) {
  pq_saved_sequences* saved = nullptr;
  EXPECT_TRUE(Ok(pq_saved_sequences_load(path, &saved)));
  return SavedPtr(saved);
}

SequencePtr Taken(const pq_saved_sequences* saved, size_t index) {
  pq_sequence_cache* cache = nullptr;
  EXPECT_TRUE(Ok(pq_saved_sequences_fork(saved, index, &cache)));
  return SequencePtr(cache);
}

void ExpectEqual(const pq_sequence_cache* a, const pq_sequence_cache* b) {
  ASSERT_EQ(StateOf(a).length, StateOf(b).length);
  ASSERT_EQ(StateOf(a).first_token, StateOf(b).first_token);
  EXPECT_EQ(RowsOf(a, PQ_KEY, 2, 64), RowsOf(b, PQ_KEY, 2, 64));
  EXPECT_EQ(RowsOf(a, PQ_VALUE, 2, 32), RowsOf(b, PQ_VALUE, 2, 32));
}

TEST(CSavedSequences, BringBackEveryCacheAndTheHostsText) {
  Twins twins;
  twins.Append(300);
  twins.Settle();
  const SequencePtr fork = Fork(twins.c.get());
  ASSERT_TRUE(Ok(pq_sequence_cache_truncate(fork.get(), 200)));
  ASSERT_TRUE(Ok(pq_sequence_cache_evict_front(fork.get(), 70)));
  const pq_sequence_cache* caches[] = {twins.c.get(), fork.get()};
  const TemporaryPath path;
  const std::string text = "{\"layers\": 2}";
  ASSERT_TRUE(Ok(pq_sequence_cache_save(path.c_str(), caches, 2, text.data(), text.size())));

  const SavedPtr saved = Loaded(path.c_str());
  size_t count = 0, bytes = 0;
  const char* host = nullptr;
  ASSERT_TRUE(Ok(pq_saved_sequences_count(saved.get(), &count)));
  EXPECT_EQ(count, 2u);
  ASSERT_TRUE(Ok(pq_saved_sequences_host(saved.get(), &host, &bytes)));
  EXPECT_EQ(std::string(host, bytes), text);
  EXPECT_EQ(host[bytes], '\0');
  for (size_t i = 0; i < 2; ++i) ExpectEqual(Taken(saved.get(), i).get(), caches[i]);

  // What shared pages shares them again.
  const SequencePtr a = Taken(saved.get(), 0), b = Taken(saved.get(), 1);
  const pq_sequence_cache* both[] = {a.get(), b.get()};
  pq_memory_use together = PQ_MEMORY_USE_INIT, before = PQ_MEMORY_USE_INIT;
  ASSERT_TRUE(Ok(pq_sequence_cache_memory_of(both, 2, &together)));
  ASSERT_TRUE(Ok(pq_sequence_cache_memory_of(caches, 2, &before)));
  EXPECT_EQ(together.code_bytes, before.code_bytes);
}

TEST(CSavedSequences, AreWhatCxxReads) {
  Twins twins;
  twins.Append(200);
  twins.Settle();
  const pq_sequence_cache* caches[] = {twins.c.get()};
  const TemporaryPath path;
  ASSERT_TRUE(Ok(pq_sequence_cache_save(path.c_str(), caches, 1, "x", 1)));
  const SavedSequences expected = {"x", {*twins.cpp}};
  std::ifstream file(path.c_str(), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(bytes, expected.Print());

  size_t needed = 0;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER,
                      pq_sequence_cache_print(caches, 1, "x", 1, nullptr, 0, &needed),
                      {"capacity is 0", std::to_string(bytes.size()).c_str()}));
  ASSERT_EQ(needed, bytes.size());
  std::string printed(needed, '#');
  ASSERT_TRUE(Ok(pq_sequence_cache_print(caches, 1, "x", 1, printed.data(), needed, nullptr)));
  EXPECT_EQ(printed, bytes);
  pq_saved_sequences* saved = nullptr;
  ASSERT_TRUE(Ok(pq_saved_sequences_parse(printed.data(), needed, &saved)));
  const SavedPtr owner(saved);
  ExpectEqual(Taken(saved, 0).get(), twins.c.get());
  EXPECT_TRUE(Refused(PQ_ERROR_CORRUPTION,
                      pq_saved_sequences_parse(printed.data(), needed - 1, &saved), {"checksum"}));
  EXPECT_EQ(saved, nullptr);
  EXPECT_TRUE(Refused(PQ_ERROR_FORMAT, pq_saved_sequences_parse("", 0, &saved), {"begin"}));
}

TEST(CSavedSequences, OutliveTheirFileAndAreOutlivedByTheirCaches) {
  Twins twins;
  twins.Append(200);
  twins.Settle();
  const pq_sequence_cache* caches[] = {twins.c.get()};
  SequencePtr cache;
  {
    const TemporaryPath path;
    ASSERT_TRUE(Ok(pq_sequence_cache_save(path.c_str(), caches, 1, nullptr, 0)));
    const SavedPtr saved = Loaded(path.c_str());
    size_t bytes = 9;
    const char* host = nullptr;
    ASSERT_TRUE(Ok(pq_saved_sequences_host(saved.get(), &host, &bytes)));
    EXPECT_EQ(bytes, 0u);
    EXPECT_STREQ(host, "");
    cache = Taken(saved.get(), 0);
  }
  ExpectEqual(cache.get(), twins.c.get());
  const Floats keys = Random(50 * 128, 1), values = Random(50 * 64, 2);
  const pq_rows k = RowsAt(keys, 2, 64), v = RowsAt(values, 2, 32);
  ASSERT_TRUE(Ok(pq_sequence_cache_append(cache.get(), &k, &v, 50, 1)));
  ASSERT_TRUE(Ok(pq_sequence_cache_settle(cache.get(), 1)));
  EXPECT_EQ(StateOf(cache.get()).length, 250);
}

// Two forks of a cache share its open page, and each may be given its profile afterwards.
TEST(CSavedSequences, MayShareAPageAndDifferInTheirProfiles) {
  SequenceShape shape;
  shape.key = "turbo4:balance";
  Twins twins(shape);
  twins.Append(50);
  const SequencePtr one = Fork(twins.c.get()), other = Fork(twins.c.get());
  const Floats balance = Scales(128), ones(128, 1.0f);
  pq_key_profile profile = PQ_KEY_PROFILE_INIT;
  profile.balance = balance.data();
  ASSERT_TRUE(Ok(pq_sequence_cache_set_profile(one.get(), &profile)));
  profile.balance = ones.data();
  ASSERT_TRUE(Ok(pq_sequence_cache_set_profile(other.get(), &profile)));
  const pq_sequence_cache* caches[] = {twins.c.get(), one.get(), other.get()};
  const TemporaryPath path;
  ASSERT_TRUE(Ok(pq_sequence_cache_save(path.c_str(), caches, 3, nullptr, 0)));
  const SavedPtr saved = Loaded(path.c_str());
  ASSERT_NE(saved, nullptr);
  const Floats keys = Random(100 * 128, 1), values = Random(100 * 64, 2);
  const pq_rows k = RowsAt(keys, 2, 64), v = RowsAt(values, 2, 32);
  for (size_t i = 0; i < 3; ++i) {
    const SequencePtr cache = Taken(saved.get(), i), expected = Fork(caches[i]);
    ExpectEqual(cache.get(), expected.get());
    for (pq_sequence_cache* each : {cache.get(), expected.get()}) {
      ASSERT_TRUE(Ok(pq_sequence_cache_append(each, &k, &v, 100, 1)));
      EXPECT_EQ(pq_sequence_cache_settle(each, 1), i == 0 ? PQ_ERROR_PARAMETER : PQ_OK);
    }
    ExpectEqual(cache.get(), expected.get());
  }
}

TEST(CSavedSequences, RefuseWhatIsDamagedMissingOrSomethingElse) {
  Twins twins;
  twins.Append(100);
  const pq_sequence_cache* caches[] = {twins.c.get(), nullptr};
  const TemporaryPath path;
  ASSERT_TRUE(Ok(pq_sequence_cache_save(path.c_str(), caches, 1, nullptr, 0)));
  std::fstream file(path.c_str(), std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](std::streamoff at, char byte) {
    file.seekp(at);
    file.put(byte);
    file.flush();
  };
  pq_saved_sequences* saved = nullptr;
  put(200, '\x7f');
  EXPECT_TRUE(
      Refused(PQ_ERROR_CORRUPTION, pq_saved_sequences_load(path.c_str(), &saved), {"damaged"}));
  EXPECT_EQ(saved, nullptr);
  put(0, 'x');
  EXPECT_TRUE(
      Refused(PQ_ERROR_FORMAT, pq_saved_sequences_load(path.c_str(), &saved), {"does not begin"}));
  EXPECT_TRUE(Refused(PQ_ERROR_HOST, pq_saved_sequences_load("/nowhere/at/all", &saved),
                      {"/nowhere/at/all"}));
  EXPECT_TRUE(Refused(PQ_ERROR_HOST,
                      pq_sequence_cache_save("/nowhere/at/all", caches, 1, nullptr, 0),
                      {"/nowhere/at/all"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER,
                      pq_sequence_cache_save(path.c_str(), caches, 1, "\xff\xfe", 2), {"UTF-8"}));
}

TEST(CSavedSequences, RefuseCallsThatDoNotFit) {
  Twins twins;
  const pq_sequence_cache* caches[] = {twins.c.get(), nullptr};
  const TemporaryPath path;
  const char* p = path.c_str();
  const auto parameter = [](pq_status status, std::initializer_list<const char*> words) {
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, status, words));
  };
  parameter(pq_sequence_cache_save(nullptr, caches, 1, nullptr, 0), {"path is NULL"});
  parameter(pq_sequence_cache_save(p, nullptr, 1, nullptr, 0), {"caches is NULL"});
  parameter(pq_sequence_cache_save(p, caches, 2, nullptr, 0), {"caches", "NULL"});
  parameter(pq_sequence_cache_save(p, caches, 1, nullptr, 3), {"host is NULL"});
  ASSERT_TRUE(Ok(pq_sequence_cache_save(p, caches, 1, nullptr, 0)));
  const SavedPtr owner = Loaded(p);
  const pq_saved_sequences* saved = owner.get();
  pq_saved_sequences* fresh = nullptr;
  size_t size = 0;
  const char* host = nullptr;
  pq_sequence_cache* cache = nullptr;
  parameter(pq_sequence_cache_print(caches, 2, nullptr, 0, &size, 8, nullptr), {"caches", "NULL"});
  parameter(pq_sequence_cache_print(nullptr, 1, nullptr, 0, &size, 8, nullptr), {"caches"});
  parameter(pq_sequence_cache_print(caches, 1, nullptr, 1, &size, 8, nullptr), {"host is NULL"});
  parameter(pq_sequence_cache_print(caches, 1, nullptr, 0, nullptr, SIZE_MAX, nullptr),
            {"bytes is NULL"});
  parameter(pq_saved_sequences_parse(nullptr, 1, &fresh), {"bytes is NULL"});
  parameter(pq_saved_sequences_parse("", 0, nullptr), {"saved is NULL"});
  parameter(pq_saved_sequences_load(nullptr, &fresh), {"path is NULL"});
  parameter(pq_saved_sequences_load(p, nullptr), {"saved is NULL"});
  parameter(pq_saved_sequences_count(nullptr, &size), {"saved is NULL"});
  parameter(pq_saved_sequences_count(saved, nullptr), {"count is NULL"});
  parameter(pq_saved_sequences_host(nullptr, &host, &size), {"saved is NULL"});
  parameter(pq_saved_sequences_host(saved, nullptr, &size), {"host is NULL"});
  parameter(pq_saved_sequences_host(saved, &host, nullptr), {"host_bytes is NULL"});
  parameter(pq_saved_sequences_fork(nullptr, 0, &cache), {"saved is NULL"});
  parameter(pq_saved_sequences_fork(saved, 1, &cache), {"index is 1", "there are 1"});
  parameter(pq_saved_sequences_fork(saved, 0, nullptr), {"cache is NULL"});
  EXPECT_TRUE(Ok(pq_saved_sequences_destroy(nullptr)));
  ASSERT_TRUE(Ok(pq_sequence_cache_save(p, nullptr, 0, "nothing", 7)));  // no caches are fine
  const SavedPtr none = Loaded(p);
  ASSERT_TRUE(Ok(pq_saved_sequences_count(none.get(), &size)));
  EXPECT_EQ(size, 0u);
}

}  // namespace
}  // namespace polarquant
