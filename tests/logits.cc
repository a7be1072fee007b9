// SPDX-License-Identifier: Apache-2.0
// Runs a script of cache operations on a model through libllama and writes every logit it gets, so
// that two runs, with and without the plug-in, can be compared number by number. The tokens are a
// fixed function of sequence and position, or an eighth of a text each.
//
//   logits MODEL FILE [-u N] [-s N] [-c N] [-t N] OPERATION...
//     -u N  micro-batch tokens (128)   -s N  sequences (1)   -c N  cells (1024)   -t N  threads (2)
//     -f TEXT  take the tokens from it   -o N  the first sequence's number (0)
//     -r LOGITS  print for each sequence the mean KL divergence from those that an earlier run
//     wrote
//   Operations, on every sequence at once:
//     pN    decode the next N tokens and write their logits
//     jN    decode N wrong tokens, nothing written
//     fN    decode the next N tokens, nothing written, and print the bytes resident then
//     rN    remove the newest N tokens
//     kN    context shift: drop the N tokens after the first four, move the rest down
//     save  save each sequence, clear the cache, load each sequence again
//
// With GGML_BACKEND_PATH set the library it names is loaded and its only device gets every layer.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace {

// What tokens are decoded for: their logits, to be taken back, or to fill the cache.
enum class Purpose { kWrite, kMislead, kFill };

struct Options {
  std::string model;
  std::string output, text, reference;
  int micro_batch = 128;
  int sequences = 1;
  int cells = 1024;
  int threads = 2;
  int first_sequence = 0;
  std::vector<std::string> operations;
};

Options ParseArguments(int argc, char** argv) {
  if (argc < 4)
    throw std::runtime_error("usage: logits MODEL FILE [-u N] [-s N] [-c N] [-t N] OP...");
  Options options;
  options.model = argv[1];
  options.output = argv[2];
  for (int i = 3; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.size() == 2 && word[0] == '-' && i + 1 < argc) {
      const std::string argument = argv[++i];
      if (word == "-f" || word == "-r") {
        (word == "-f" ? options.text : options.reference) = argument;
        continue;
      }
      const int value = std::stoi(argument);
      switch (word[1]) {
        case 'o':
          options.first_sequence = value;
          break;
        case 'u':
          options.micro_batch = value;
          break;
        case 's':
          options.sequences = value;
          break;
        case 'c':
          options.cells = value;
          break;
        case 't':
          options.threads = value;
          break;
        default:
          throw std::runtime_error("unknown option " + word);
      }
    } else {
      options.operations.push_back(word);
    }
  }
  return options;
}

class Run {
 public:
  explicit Run(const Options& options) : options_(options) {
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    ggml_backend_dev_t devices[2] = {nullptr, nullptr};
    if (const char* plugin = std::getenv("GGML_BACKEND_PATH")) {
      ggml_backend_reg_t registry = ggml_backend_load(plugin);
      if (registry == nullptr) throw std::runtime_error("the plug-in does not load");
      devices[0] = ggml_backend_reg_dev_get(registry, 0);
    }
    model_params.devices = devices;
    model_params.n_gpu_layers = 999;
    model_.reset(llama_model_load_from_file(options.model.c_str(), model_params));
    if (!model_) throw std::runtime_error("cannot load " + options.model);

    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(options.cells);
    params.n_batch = static_cast<uint32_t>(options.cells);
    params.n_ubatch = static_cast<uint32_t>(options.micro_batch);
    params.n_seq_max = static_cast<uint32_t>(options.sequences);
    params.n_threads = options.threads;
    params.n_threads_batch = options.threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.kv_unified = true;
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) throw std::runtime_error("cannot create a context");
    vocabulary_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
    file_.reset(std::fopen(options.output.c_str(), "wb"));
    if (!file_) throw std::runtime_error("cannot write " + options.output);
    batch_ = llama_batch_init(options.cells, 0, 1);
    if (!options.text.empty()) Tokenize(options.text);
    if (options.reference.empty()) return;
    reference_.reset(std::fopen(options.reference.c_str(), "rb"));
    if (!reference_) throw std::runtime_error("cannot read " + options.reference);
    divergence_.resize(static_cast<size_t>(options.sequences));
  }
  ~Run() { llama_batch_free(batch_); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void Apply(const std::string& operation) {
    if (operation == "save") return SaveAndLoad();
    const int count = std::stoi(operation.substr(1));
    switch (operation[0]) {
      case 'p':
        return Decode(count, Purpose::kWrite);
      case 'j':
        return Decode(count, Purpose::kMislead);
      case 'f':
        return Fill(count);
      case 'r':
        return Remove(count);
      case 'k':
        return Shift(count);
      default:
        throw std::runtime_error("unknown operation " + operation);
    }
  }

  void Finish() {
    if (std::fflush(file_.get()) != 0) throw std::runtime_error("cannot write the logits");
    for (const double sum : divergence_) std::printf("%.6f\n", sum / scored_);
  }

 private:
  struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  void Tokenize(const std::string& path) {
    std::ifstream file(path);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    tokens_.resize(text.size() + 8);
    const int count = llama_tokenize(llama_model_get_vocab(model_.get()), text.data(),
                                     static_cast<int32_t>(text.size()), tokens_.data(),
                                     static_cast<int32_t>(tokens_.size()), false, false);
    if (count < kParts) throw std::runtime_error("no text in " + path);
    tokens_.resize(static_cast<size_t>(count));
  }

  // Adds what a token's next-token distribution diverges from the reference's, in nats.
  void Compare(const float* logits, int sequence) {
    std::vector<float> expected(static_cast<size_t>(vocabulary_));
    if (std::fread(expected.data(), sizeof(float), expected.size(), reference_.get()) !=
        expected.size()) {
      throw std::runtime_error("the reference has fewer logits");
    }
    const auto log_sum = [&](const float* x) {
      const double max = *std::max_element(x, x + vocabulary_);
      double sum = 0;
      for (int i = 0; i < vocabulary_; ++i) sum += std::exp(x[i] - max);
      return max + std::log(sum);
    };
    const double p_sum = log_sum(expected.data()), q_sum = log_sum(logits);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double log_p = expected[i] - p_sum;
      divergence_[static_cast<size_t>(sequence)] += std::exp(log_p) * (log_p - logits[i] + q_sum);
    }
    if (sequence == 0) ++scored_;
  }

  // A multiplicative hash of (sequence, number of the token in its text).
  llama_token Token(int sequence, int index, bool wrong) const {
    if (!tokens_.empty() && !wrong) {
      const size_t part = tokens_.size() / kParts;
      return tokens_.at(static_cast<size_t>(sequence) * part + static_cast<size_t>(index) % part);
    }
    uint64_t x = static_cast<uint64_t>(index) * 2 + (wrong ? 1 : 0) + 1;
    x = (x + static_cast<uint64_t>(sequence) * 1000003ULL) * 0x9E3779B97F4A7C15ULL;
    return static_cast<llama_token>((x >> 33) % static_cast<uint64_t>(vocabulary_));
  }

  void Decode(int count, Purpose purpose) {
    // Micro-batches hold tokens of every sequence, so that cells of sequences interleave.
    const int step = std::max(1, options_.micro_batch / options_.sequences);
    for (int first = 0; first < count; first += step) {
      const int tokens = std::min(step, count - first);
      batch_.n_tokens = 0;
      for (int sequence = 0; sequence < options_.sequences; ++sequence) {
        for (int i = 0; i < tokens; ++i) {
          const int slot = batch_.n_tokens++;
          batch_.token[slot] = Token(options_.first_sequence + sequence, text_ + first + i,
                                     purpose == Purpose::kMislead);
          batch_.pos[slot] = position_ + first + i;
          batch_.n_seq_id[slot] = 1;
          batch_.seq_id[slot][0] = sequence;
          batch_.logits[slot] = purpose == Purpose::kFill ? 0 : 1;
        }
      }
      const int status = llama_decode(context_.get(), batch_);
      if (status != 0) throw std::runtime_error("llama_decode: " + std::to_string(status));
      for (int slot = 0; slot < batch_.n_tokens && purpose == Purpose::kWrite; ++slot) {
        const float* logits = llama_get_logits_ith(context_.get(), slot);
        std::fwrite(logits, sizeof(float), static_cast<size_t>(vocabulary_), file_.get());
        if (reference_) Compare(logits, batch_.seq_id[slot][0]);
      }
    }
    position_ += count;
    text_ += count;
  }

  void Fill(int count) {
    Decode(count, Purpose::kFill);
    std::ifstream status("/proc/self/statm");
    long total_pages = 0;
    long resident_pages = 0;
    status >> total_pages >> resident_pages;
    std::printf("%ld\n", resident_pages * sysconf(_SC_PAGESIZE));
  }

  void Remove(int count) {
    position_ -= count;
    text_ -= count;
    for (int sequence = 0; sequence < options_.sequences; ++sequence) {
      if (!llama_memory_seq_rm(memory(), sequence, position_, -1)) {
        throw std::runtime_error("the cache cannot remove the newest tokens");
      }
    }
  }

  void Shift(int count) {
    constexpr int kKept = 4;
    for (int sequence = 0; sequence < options_.sequences; ++sequence) {
      llama_memory_seq_rm(memory(), sequence, kKept, kKept + count);
      llama_memory_seq_add(memory(), sequence, kKept + count, position_, -count);
    }
    position_ -= count;
  }

  void SaveAndLoad() {
    std::vector<std::vector<uint8_t>> saved;
    for (int sequence = 0; sequence < options_.sequences; ++sequence) {
      saved.emplace_back(llama_state_seq_get_size(context_.get(), sequence));
      saved.back().resize(llama_state_seq_get_data(context_.get(), saved.back().data(),
                                                   saved.back().size(), sequence));
    }
    llama_memory_clear(memory(), /*data=*/true);
    for (int sequence = 0; sequence < options_.sequences; ++sequence) {
      const std::vector<uint8_t>& state = saved[static_cast<size_t>(sequence)];
      if (llama_state_seq_set_data(context_.get(), state.data(), state.size(), sequence) == 0) {
        throw std::runtime_error("the saved state does not load");
      }
    }
  }

  static constexpr int kParts = 8;  // of a text, one a sequence

  llama_memory_t memory() const { return llama_get_memory(context_.get()); }

  Options options_;
  std::unique_ptr<llama_model, Free> model_;
  std::unique_ptr<llama_context, Free> context_;
  std::unique_ptr<std::FILE, Free> file_, reference_;
  std::vector<llama_token> tokens_;  // of the text
  std::vector<double> divergence_;   // of each sequence, summed over `scored_` tokens of it
  int scored_ = 0;
  llama_batch batch_ = {};
  int vocabulary_ = 0;
  int position_ = 0;  // of the next token
  int text_ = 0;      // number of the next token in its text, unchanged by shifts
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = ParseArguments(argc, argv);
    Run run(options);
    for (const std::string& operation : options.operations) run.Apply(operation);
    run.Finish();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "logits: %s\n", error.what());
    return 1;
  }
}
