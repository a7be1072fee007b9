// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `codecs`: every codec measured on rows: bits, error, bias, time,
// and what lossless coding of its pages would still save.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>

#include "cold_coding.h"
#include "command.h"
#include "distortion.h"
#include "interrupt.h"
#include "page_buffer.h"
#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "sample_rows.h"
#include "statistics.h"

namespace polarquant::cli {
namespace {

constexpr int kPageTokens = 128;

struct CodecsOptions {
  std::vector<std::string> schemes;
  SampleOptions sample;
  JsonOption json;
};

struct Measurement {
  explicit Measurement(const PageFormat& of) : format(of), distortion(of.head_dim()) {}
  const PageFormat& format;
  Distortion distortion;
  Histogram record_bytes, codes;
  size_t stored_bytes = 0, zstd_bytes = 0;
  std::vector<double> encode_ns, decode_ns;  // a row, page by page
};

template <typename Work>
double NanosecondsPerRow(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  return taken.count() / kPageTokens;
}

// Encodes and decodes the rows of one head, whole pages.
void MeasureHead(const std::vector<float>& rows, Measurement& measured,
                 const std::function<void()>& after_page) {
  const PageFormat& format = measured.format;
  const size_t page_values = size_t{kPageTokens} * static_cast<size_t>(format.head_dim());
  const size_t num_pages = rows.size() / page_values;
  PageBuffer pages(format, num_pages);
  std::vector<float> decoded(page_values);
  std::vector<std::byte> record(format.record_bytes());
  for (size_t p = 0; p < num_pages; ++p) {
    const float* page_rows = rows.data() + p * page_values;
    std::byte* page = pages.page(p);
    measured.encode_ns.push_back(
        NanosecondsPerRow([&] { format.EncodePage(page_rows, kPageTokens, page); }));
    measured.decode_ns.push_back(
        NanosecondsPerRow([&] { format.DecodePage(page, kPageTokens, decoded.data()); }));
    measured.distortion.Add(page_rows, decoded.data(), kPageTokens);
    for (int row = 0; row < kPageTokens; ++row) {
      format.ReadRecord(page, row, record.data());
      measured.record_bytes.AddBytes(record);
      if (!format.tiled()) continue;  // of other codecs the door does not say where codes lie
      const auto scale_bytes = static_cast<size_t>(format.scale_blocks()) * 2;
      measured.codes.AddPacked(std::span<const std::byte>(record).subspan(scale_bytes),
                               format.code_bits(), format.head_dim());
    }
    after_page();
  }
  measured.stored_bytes += pages.bytes().size();
  measured.zstd_bytes += ZstdBytes(pages.bytes());
}

Json Finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json Row(const Measurement& measured) {
  const PageFormat& format = measured.format;
  const Distortion& distortion = measured.distortion;
  const double head_dim = format.head_dim();
  const double values = static_cast<double>(distortion.num_rows()) * head_dim;
  const double bits = 8 * static_cast<double>(measured.stored_bytes) / values;
  const double header_bits =
      8 * static_cast<double>(format.header_bytes()) / (kPageTokens * head_dim);
  const double record_bits =
      measured.record_bytes.entropy_bits() * static_cast<double>(format.record_bytes()) / head_dim;
  Json row;
  row["scheme"] = format.scheme().ToString();
  row["bits_per_value"] = bits;
  row["page_bytes"] = format.page_bytes();
  row["distortion"] = distortion.relative();
  row["sqnr_db"] = Finite(distortion.sqnr_db());
  row["gap_bits"] = Finite(distortion.gap_bits(bits));
  row["cosine_mean"] = distortion.mean_cosine();
  row["cosine_min"] = distortion.min_cosine();
  row["inner_product_bias"] = distortion.inner_product_bias();
  row["inner_product_variance"] = distortion.inner_product_variance();
  row["code_entropy_bits"] = format.tiled() ? Json(measured.codes.entropy_bits()) : Json();
  row["record_entropy_bits"] = record_bits + header_bits;
  row["zstd_bits"] = 8 * static_cast<double>(measured.zstd_bytes) / values;
  row["encode_ns_per_row"] = Median(measured.encode_ns);
  row["decode_ns_per_row"] = Median(measured.decode_ns);
  return row;
}

std::string PrintTable(const Json& report) {
  Table table({"scheme", "bits/value", "D", "SQNR dB", "gap bits", "cos mean", "cos min", "ip bias",
               "ip var", "H codes", "H records", "zstd", "enc ns/row", "dec ns/row"});
  for (const Json& row : report.at("codecs")) {
    const auto cell = [&](const char* key, auto format) {
      return row.at(key).is_null() ? std::string("-")
                                   : fmt::format(fmt::runtime(format), row.at(key).get<double>());
    };
    table.Add({row.at("scheme").get<std::string>(), cell("bits_per_value", "{:.4f}"),
               cell("distortion", "{:.4g}"), cell("sqnr_db", "{:.2f}"), cell("gap_bits", "{:.3f}"),
               cell("cosine_mean", "{:.5f}"), cell("cosine_min", "{:.5f}"),
               cell("inner_product_bias", "{:+.5f}"), cell("inner_product_variance", "{:.4g}"),
               cell("code_entropy_bits", "{:.4f}"), cell("record_entropy_bits", "{:.4f}"),
               cell("zstd_bits", "{:.4f}"), cell("encode_ns_per_row", "{:.0f}"),
               cell("decode_ns_per_row", "{:.0f}")});
  }
  return table.Print();
}

// The schemes asked for, else every codec with its default spelling.
std::vector<Scheme> SchemesOf(const CodecsOptions& options) {
  std::vector<Scheme> schemes;
  for (const std::string& text : options.schemes) {
    const Scheme scheme = Scheme::Parse(text);
    if (scheme.normalisation.needs_profile()) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} needs what a model's profile says of its keys, which rows "
                              "alone do not show; measure it with polarquant perplexity",
                              text));
    }
    schemes.push_back(scheme);
  }
  if (!schemes.empty()) return schemes;
  for (const CodecInfo& info : Codecs()) schemes.push_back(Scheme::Parse(info.name));
  return schemes;
}

struct Formats {
  std::vector<PageFormat> taken;
  Json refused = Json::array();  // of the table: what does not store such rows, and why
};

Formats FormatsOf(const CodecsOptions& options, int head_dim) {
  Formats formats;
  for (const Scheme& scheme : SchemesOf(options)) {
    try {
      formats.taken.emplace_back(scheme, options.sample.role, head_dim, kPageTokens);
    } catch (const Error& error) {
      if (!options.schemes.empty()) throw;
      formats.refused.push_back({{"scheme", scheme.ToString()}, {"cause", error.what()}});
    }
  }
  return formats;
}

int RunCodecs(const CodecsOptions& options) {
  CatchInterrupts();
  SchemesOf(options);  // misspelt ones are refused before anything is drawn
  const SampleRows sample = LoadSample(options.sample, kPageTokens);
  const Formats formats = FormatsOf(options, sample.head_dim);
  const char* role = options.sample.role == Role::kKey ? "key" : "value";
  Json report;
  report["head_dim"] = sample.head_dim;
  report["role"] = role;
  report["data"] = options.sample.data;
  report["seed"] = sample.drawn ? Json(options.sample.seed) : Json();
  report["heads"] = sample.heads.size();
  report["rows"] = sample.num_rows();
  report["page_tokens"] = kPageTokens;
  report["target"] = DefaultTarget().name;
  report["zstd"] = {{"version", ZstdVersion()}, {"level", kZstdLevel}};
  report["codecs"] = Json::array();
  report["refused"] = formats.refused;
  const double rows = static_cast<double>(sample.num_rows());
  Progress progress("codecs", rows * static_cast<double>(formats.taken.size()));
  double done = 0;
  for (const PageFormat& format : formats.taken) {
    Measurement measured(format);
    for (const std::vector<float>& head : sample.heads) {
      MeasureHead(head, measured, [&] {
        done += kPageTokens;
        progress.Update(done, format.scheme().ToString());
        ThrowIfInterrupted();
      });
    }
    report["codecs"].push_back(Row(measured));
  }
  std::string text = fmt::format(
      "{} rows of {} values as {}s, {}{}, pages of {}, kernels {}; zstd {} level {}\n\n",
      sample.num_rows(), sample.head_dim, role, options.sample.data,
      sample.drawn ? fmt::format(" (seed {})", options.sample.seed) : "", kPageTokens,
      DefaultTarget().name, ZstdVersion(), kZstdLevel);
  text += PrintTable(report);
  for (const Json& row : formats.refused) text += "\n" + row.at("cause").get<std::string>();
  Report(report, text + (formats.refused.empty() ? "" : "\n"), options.json);
  return 0;
}

}  // namespace

void AddCodecs(CLI::App& app, const GlobalOptions& /*global*/, Action& action) {
  auto options = std::make_shared<CodecsOptions>();
  CLI::App* command = app.add_subcommand(
      "codecs", "Measure codecs on rows: bits, error, bias, time, lossless coding of pages");
  command->footer(fmt::format(R"(
Columns, for rows x that come back as x':
  bits/value  whole pages, scales, headers and padding counted
  D           sum |x - x'|^2 / sum |x|^2;  SQNR dB is -10 log10 D
  gap bits    bits/value + log2(D) / 2: what is spent beyond Shannon's bound for Gaussian rows
  cos         cosine of x and x', mean and worst
  ip bias     slope of <q,x'> on <q,x>, less one, over queries q of all directions
  ip var      head_dim (<q,x'> - <q,x>)^2 / (|q|^2 |x|^2), mean over the same queries
  H codes     order-0 entropy of the codes, bits/value, where codes are one number a value
  H records   records at the order-0 entropy of their bytes, and headers: what an ideal coder of
              single bytes would need
  zstd        the pages compressed by zstd level {}, and restored to be sure
  ns/row      one thread, median page

Rows (--data):{}
  FILE       those of a model, made by polarquant capture

Examples:
  polarquant codecs
  polarquant codecs --head-dim 64 --data heavy --codec turbo4 --codec turbo4:center --codec q8_0
  polarquant codecs --data channels --codec turbo3 --codec turbo3:center --json out.json)",
                              kZstdLevel, kDistributions));
  command
      ->add_option("--codec", options->schemes,
                   "A scheme, for instance turbo4:center; repeatable. Default every codec")
      ->type_name("SCHEME")
      ->expected(1)
      ->take_all();
  SampleOptions& sample = options->sample;
  command->add_option("--head-dim", sample.head_dim, "Values in a drawn row")
      ->type_name("D")
      ->default_str(fmt::format("{}", kDrawnHeadDim));
  command->add_option("--data", sample.data, "gaussian, heavy, channels, or a file; see below")
      ->type_name("ROWS")
      ->capture_default_str();
  command
      ->add_option("--vectors", sample.num_rows,
                   "Rows to draw, rounded up to whole pages, or to take of each captured head")
      ->type_name("N")
      ->check(CLI::Range(kPageTokens, 1 << 24))
      ->capture_default_str();
  command->add_option("--seed", sample.seed, "Of the random numbers")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--role",
          [options](const std::string& role) {
            options->sample.role = role == "key" ? Role::kKey : Role::kValue;
          },
          "Store them as keys or as values")
      ->type_name("ROLE")
      ->check(CLI::IsMember({"key", "value"}))
      ->default_str("key");
  AddJsonOption(*command, options->json);
  command->callback([&action, options] { action = [options] { return RunCodecs(*options); }; });
}

}  // namespace polarquant::cli
