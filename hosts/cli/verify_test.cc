// SPDX-License-Identifier: Apache-2.0
#include "verify.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "checks.h"

namespace polarquant::cli {
namespace {

TEST(LloydMax, HoldsForTheKnownQuantisers) {
  const std::vector<double> one = {-0.7978845608, 0.7978845608};
  EXPECT_LT(GapToLloydMax(one).off_centre, 1e-9);
  EXPECT_NEAR(GapToLloydMax(one).distortion, 1 - 2 / M_PI, 1e-9);
  const std::vector<double> two = {-1.510417608, -0.4527800398, 0.4527800398, 1.510417608};
  EXPECT_LT(GapToLloydMax(two).off_centre, 1e-6);
  EXPECT_EQ(GapToLloydMax(two).asymmetry, 0);
  EXPECT_NEAR(GapToLloydMax(two).distortion, 0.117481848, 1e-8);
}

TEST(LloydMax, DoesNotHoldForUniformLevels) {
  const std::vector<double> uniform = {-1.49353, -0.49784333, 0.49784333, 1.49353};
  EXPECT_NEAR(GapToLloydMax(uniform).distortion, 0.118846, 1e-5);
  EXPECT_GT(GapToLloydMax(uniform).off_centre, 0.01);
}

TEST(LloydMax, SeesAShiftedCodebook) {
  const std::vector<double> shifted = {-1.41, -0.35, 0.55, 1.61};
  EXPECT_NEAR(GapToLloydMax(shifted).asymmetry, 0.2, 1e-9);
  EXPECT_GT(GapToLloydMax(shifted).distortion, 0.118);
}

TEST(Goldens, EachRecordThatDiffersCounts) {
  const Golden right = {"turbo1", "31436c40887b"};
  EXPECT_EQ(CheckGoldens(std::array{right}).figure, 0);
  const std::array goldens = {right, Golden{"turbo1", "31436c40887a"}, Golden{"turbo2", ""}};
  const Finding finding = CheckGoldens(goldens);
  EXPECT_EQ(finding.figure, 2);
  EXPECT_NE(finding.what.find("turbo1, turbo2"), std::string::npos) << finding.what;
}

TEST(Checks, AreWrongAboveTheirBoundAndForNaN) {
  Checks checks;
  EXPECT_TRUE(checks.Judge("even", 1, 1, "figure"));
  EXPECT_EQ(checks.status(), 0);
  EXPECT_FALSE(checks.Judge("nan", NAN, 1, "figure"));
  EXPECT_FALSE(checks.Judge("above", 1.01, 1, "figure"));
  EXPECT_EQ(checks.status(), static_cast<int>(ErrorCode::kCorruption));
  EXPECT_EQ(checks.json().size(), 3u);
  EXPECT_NE(checks.text().find("WRONG  above"), std::string::npos) << checks.text();
}

TEST(Checks, KeepTheStatusOfTheFirstError) {
  Checks checks;
  EXPECT_TRUE(checks.Add("fine", [] { return std::string("detail"); }));
  EXPECT_FALSE(checks.Add("host", []() -> std::string { throw Error(ErrorCode::kHost, "no"); }));
  EXPECT_FALSE(checks.Judge("above", 2, 1, "figure"));
  EXPECT_EQ(checks.status(), static_cast<int>(ErrorCode::kHost));
}

}  // namespace
}  // namespace polarquant::cli
