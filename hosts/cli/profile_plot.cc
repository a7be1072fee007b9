// SPDX-License-Identifier: Apache-2.0
#include "profile_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

constexpr int kCell = 16, kLeft = 60, kTop = 40, kGap = 36;
constexpr double kFullGain = 12.0;  // dB of the darkest colour

// White at 0, deep blue at kFullGain; red where it would lose.
std::string Colour(double gain) {
  const double depth = std::clamp(std::abs(gain) / kFullGain, 0.0, 1.0);
  const int faded = static_cast<int>(255 - 215 * depth), kept = static_cast<int>(255 - 105 * depth);
  return gain >= 0 ? fmt::format("rgb({},{},{})", faded, static_cast<int>(255 - 160 * depth), kept)
                   : fmt::format("rgb({},{},{})", kept, faded, faded);
}

std::string Escaped(const std::string& text) {
  std::string safe;
  for (const char letter : text) {
    safe += letter == '<' ? "&lt;" : letter == '&' ? "&amp;" : std::string(1, letter);
  }
  return safe;
}

}  // namespace

void PlotGains(const ModelProfile& profile, const std::string& path) {
  int heads = 0;
  for (const LayerProfile& layer : profile.layers) heads = std::max(heads, layer.num_kv_heads);
  const int columns = static_cast<int>(profile.layers.size());
  const int panel_height = heads * kCell + kGap;
  const int num_panels = static_cast<int>(std::size(kGainSteps));
  const int width = std::max(kLeft + columns * kCell + 20, 480);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"10\" y=\"18\">{2}: dB less error of logits (darkest: {3:.0f} dB)</text>\n",
      width, kTop + num_panels * panel_height, Escaped(profile.model), kFullGain);
  for (int p = 0; p < num_panels; ++p) {
    const int top = kTop + p * panel_height;
    svg += fmt::format("<text x=\"10\" y=\"{}\">{}</text>\n", top + 10, kGainSteps[p].name);
    for (int column = 0; column < columns; ++column) {
      const LayerProfile& layer = profile.layers[static_cast<size_t>(column)];
      for (int head = 0; head < layer.num_kv_heads; ++head) {
        const double gain = layer.GainDb(head, kGainSteps[p].normalisation);
        svg += fmt::format(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"><title>layer {} "
            "kv_head {}: {:.2f} dB</title></rect>\n",
            kLeft + column * kCell, top + 16 + head * kCell, kCell - 1, kCell - 1, Colour(gain),
            layer.layer, head, gain);
      }
    }
  }
  std::ofstream file(path);
  file << svg << "</svg>\n";
  file.close();
  if (!file) throw Error(ErrorCode::kHost, fmt::format("cannot write the picture {}", path));
}

}  // namespace polarquant::cli
