// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: prints trellis_tables.cc. Not built by default:
//
//   cmake --build BUILD --target train_trellis && BUILD/src/codecs/train_trellis |
//       clang-format --assume-filename=a.cc > src/codecs/trellis_tables.cc
#include <cstdio>

#include "codecs/trellis_training.h"

int main() {
  std::puts(
      "// SPDX-License-Identifier: Apache-2.0\n"
      "// Stage 3/7 quantise: the levels of trellis1 ... trellis4, printed by train_trellis.cc.\n"
      "#include \"codecs/trellis.h\"\n\n"
      "namespace polarquant {\n\n"
      "const TrellisTable& TrellisTableOf(int bits) {\n"
      "static const TrellisTable tables[kMaxTrellisBits] = {");
  for (int bits = 1; bits <= polarquant::kMaxTrellisBits; ++bits) {
    const polarquant::TrellisTable table = polarquant::TrainTrellis(bits);
    std::printf("{{");
    for (int s = 0; s < polarquant::kTrainedStates; ++s) {
      std::printf("%s%d", s == 0 ? "" : ", ", table.levels[s]);
    }
    std::printf("}, %.9gf},\n", static_cast<double>(table.unit));
  }
  std::puts(
      "};\n"
      "return tables[bits - 1];\n"
      "}\n\n"
      "}  // namespace polarquant");
}
