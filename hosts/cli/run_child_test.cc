// SPDX-License-Identifier: Apache-2.0
#include "run_child.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "polarquant/error.h"
#include "temporary_file.h"

namespace polarquant::cli {
namespace {

constexpr const char* kGood =
    R"(echo '{"event":"loaded","version":"1","commit":"c"}' >> $POLARQUANT_STATUS;
       echo '{"event":"cache","layers":2}' >> $POLARQUANT_STATUS;
       echo '{"event":"attention"}' >> $POLARQUANT_STATUS;)";

// A program in the place of a llama.cpp one: a shell script that reports what a plug-in would.
struct Fake {
  TemporaryFile file;
  StatusLog log{file.path()};
  ChildEnd Run(const std::string& script) {
    return RunChild({"/bin/sh", "-c", script}, {{"POLARQUANT_STATUS", file.path()}}, log);
  }
  std::string Judge(const std::string& script) { return JudgeEnd(log, Run(script), "fake"); }
};

TEST(RunChild, ReturnsTheStatusOfAProgramThatUsedOurCache) {
  Fake fake;
  const ChildEnd end = fake.Run(std::string(kGood) + "exit 7");
  EXPECT_EQ(end.status, 7);
  EXPECT_EQ(JudgeEnd(fake.log, end, "fake"), "");
  EXPECT_EQ(Fake().Judge(kGood), "");
}

TEST(RunChild, ReadsTheLastStatus) {
  Fake fake;
  fake.Run(std::string(kGood) +
           R"(echo '{"event":"exit","kv_resident_bytes":5}' >> $POLARQUANT_STATUS)");
  EXPECT_EQ(fake.log.last_status().value("kv_resident_bytes", 0), 5);
}

TEST(RunChild, BlamesAProgramThatNeverLoadsThePlugin) {
  EXPECT_NE(Fake().Judge("exit 0").find("without loading the plug-in"), std::string::npos);
  EXPECT_NE(Fake().Judge("exit 1").find("status 1"), std::string::npos);
}

TEST(RunChild, BlamesAProgramThatMakesNoCache) {
  EXPECT_NE(Fake().Judge(R"(echo '{"event":"loaded"}' >> $POLARQUANT_STATUS)").find("no cache"),
            std::string::npos);
}

TEST(RunChild, BlamesAProgramThatNeverAttends) {
  EXPECT_NE(Fake()
                .Judge(R"(printf '{"event":"loaded"}\n{"event":"cache"}\n' >> $POLARQUANT_STATUS)")
                .find("no attention"),
            std::string::npos);
}

TEST(RunChild, LeavesItsOwnFailuresToTheProgram) {
  EXPECT_EQ(Fake().Judge(R"(echo '{"event":"loaded"}' >> $POLARQUANT_STATUS; exit 3)"), "");
}

class Trouble : public testing::TestWithParam<const char*> {};

TEST_P(Trouble, EndsTheProgramAndNamesTheCause) {
  Fake fake;
  const auto start = std::chrono::steady_clock::now();
  const std::string cause = fake.Judge(
      std::string(kGood) + R"(echo '{"event":")" + GetParam() +
      R"(","cause":"layer 3 stays with llama.cpp"}' >> $POLARQUANT_STATUS; sleep 60 & wait)");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_NE(cause.find("layer 3 stays with llama.cpp"), std::string::npos) << cause;
}

INSTANTIATE_TEST_SUITE_P(Events, Trouble, testing::Values("refused", "bypass"));

TEST(RunChild, EndsWhatTheProgramStartedToo) {
  TemporaryFile survivor;
  Fake fake;
  fake.Run(R"(sh -c 'trap "" TERM; while :; do sleep 0.1; date +%N > )" + survivor.path() +
           R"(; done' & echo '{"event":"bypass","cause":"x"}' >> $POLARQUANT_STATUS; wait)");
  const auto read = [&] {
    std::ifstream file(survivor.path());
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string last = read();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_EQ(read(), last) << "a grandchild still runs";
}

TEST(RunChild, KillsAProgramThatWillNotEnd) {
  Fake fake;
  const ChildEnd end = fake.Run(
      R"(trap '' TERM; echo '{"event":"refused","cause":"x"}' >> $POLARQUANT_STATUS;
         while :; do sleep 0.1; done)");
  EXPECT_EQ(end.status, 128 + SIGKILL);
  EXPECT_TRUE(end.by_signal);
}

TEST(RunChild, PassesSignalsOn) {
  Fake fake;
  std::thread sender([] {
    sigset_t all;  // so that only RunChild's thread can take the signal
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    kill(getpid(), SIGTERM);
  });
  const ChildEnd end = fake.Run("trap 'exit 9' TERM; while :; do sleep 0.1; done");
  sender.join();
  EXPECT_EQ(end.status, 9);
  EXPECT_TRUE(end.by_signal);
  EXPECT_EQ(JudgeEnd(fake.log, end, "fake"), "");
}

TEST(RunChild, SaysWhyAProgramCannotStart) {
  TemporaryFile file;
  StatusLog log(file.path());
  try {
    RunChild({file.path()}, {}, log);  // not executable
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kHost);
    EXPECT_NE(std::string(error.what()).find("Permission denied"), std::string::npos);
  }
}

TEST(RunChild, SetsAndRemovesVariables) {
  setenv("PQ_TEST_GONE", "1", 1);
  TemporaryFile file;
  StatusLog log(file.path());
  const ChildEnd end = RunChild({"/bin/sh", "-c", "test \"$PQ_TEST_GONE$PQ_TEST_NEW\" = here"},
                                {{"PQ_TEST_GONE", std::nullopt}, {"PQ_TEST_NEW", "here"}}, log);
  EXPECT_EQ(end.status, 0);
}

TEST(StatusLog, WaitsForTheEndOfALine) {
  TemporaryFile file;
  StatusLog log(file.path());
  std::ofstream out(file.path(), std::ios::app);
  out << R"({"event":"loa)" << std::flush;
  log.Poll();
  EXPECT_FALSE(log.loaded());
  EXPECT_EQ(log.trouble(), "");
  out << "ded\"}\n" << std::flush;
  log.Poll();
  EXPECT_TRUE(log.loaded());
}

TEST(StatusLog, ReportsLinesThatAreNotJson) {
  TemporaryFile file;
  StatusLog log(file.path());
  std::ofstream(file.path()) << "nonsense\n";
  log.Poll();
  EXPECT_NE(log.trouble().find("nonsense"), std::string::npos);
}

}  // namespace
}  // namespace polarquant::cli
