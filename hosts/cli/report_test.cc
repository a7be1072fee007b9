// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <gtest/gtest.h>

#include <fstream>

#include "polarquant/error.h"
#include "temporary_file.h"

namespace polarquant::cli {
namespace {

TEST(Table, AlignsTheFirstColumnLeftAndOthersRight) {
  Table table({"cache", "PPL"});
  table.Add({"f16", "9.5"});
  table.Add({"turbo4/turbo4", "10.25"});
  EXPECT_EQ(table.Print(),
            "cache            PPL\n"
            "--------------------\n"
            "f16              9.5\n"
            "turbo4/turbo4  10.25\n");
}

TEST(PrintBytes, ChoosesTheUnit) {
  EXPECT_EQ(PrintBytes(0), "0 B");
  EXPECT_EQ(PrintBytes(1023), "1023 B");
  EXPECT_EQ(PrintBytes(1536), "1.50 KiB");
  EXPECT_EQ(PrintBytes(188743680), "180.00 MiB");
}

TEST(Report, WritesJsonToAFile) {
  const TemporaryFile file;
  Report(Json{{"model", "m"}}, "", {true, file.path()});
  std::ifstream written(file.path());
  EXPECT_EQ(Json::parse(written)["model"], "m");
}

TEST(Report, RefusesAFileItCannotWrite) {
  EXPECT_THROW(Report(Json(), "", {true, "/no/such/folder/out.json"}), Error);
}

}  // namespace
}  // namespace polarquant::cli
