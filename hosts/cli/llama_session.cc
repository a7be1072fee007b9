// SPDX-License-Identifier: Apache-2.0
#include "llama_session.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "interrupt.h"
#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

ggml_type TypeNamed(const std::string& name) {
  for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
    const char* other = ggml_type_name(static_cast<ggml_type>(type));
    if (other != nullptr && name == other) return static_cast<ggml_type>(type);
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("this llama.cpp has no cache type named {}", name));
}

std::string Because(const std::string& what) {
  const std::string complaint = TakeComplaint();
  return complaint.empty() ? what : fmt::format("{}: {}", what, complaint);
}

}  // namespace

Model::Model(const std::string& path, const Plugin* plugin)
    : path_(path), plugin_(plugin), model_(nullptr, llama_model_free) {
  if (!std::filesystem::exists(path)) {
    throw Error(ErrorCode::kParameter, fmt::format("there is no model file {}", path));
  }
  llama_model_params params = llama_model_default_params();
  std::array<ggml_backend_dev_t, 2> devices = {plugin != nullptr ? plugin->device() : nullptr,
                                               nullptr};
  params.devices = devices.data();
  params.n_gpu_layers = -1;  // all: the cache follows its layer
  params.progress_callback = [](float, void*) { return PendingSignal() == 0; };
  model_.reset(llama_model_load_from_file(path.c_str(), params));
  ThrowIfInterrupted();
  if (!model_) {
    throw Error(ErrorCode::kHost, Because(fmt::format("llama.cpp cannot load {}", path)));
  }
}

int Model::vocab_size() const { return llama_vocab_n_tokens(llama_model_get_vocab(get())); }

llama_token Model::first_token() const {
  const llama_vocab* vocab = llama_model_get_vocab(get());
  const llama_token first = llama_vocab_bos(vocab);
  return first != LLAMA_TOKEN_NULL ? first : std::max(llama_vocab_eos(vocab), 0);
}

bool Model::has_words() const {
  return llama_vocab_type(llama_model_get_vocab(get())) != LLAMA_VOCAB_TYPE_NONE;
}

int Model::trained_context() const { return llama_model_n_ctx_train(get()); }

bool Model::adds_first_token() const {
  return llama_vocab_get_add_bos(llama_model_get_vocab(get()));
}

std::vector<llama_token> Model::Tokenize(const std::string& text) const {
  if (!has_words()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} has no words and cannot read text; use a model that has", path_));
  }
  std::vector<llama_token> tokens(text.size() + 8);
  const int count =
      llama_tokenize(llama_model_get_vocab(get()), text.data(), static_cast<int32_t>(text.size()),
                     tokens.data(), static_cast<int32_t>(tokens.size()), /*add_special=*/true,
                     /*parse_special=*/false);
  if (count < 0) throw Error(ErrorCode::kHost, Because("llama.cpp cannot tokenize the text"));
  tokens.resize(static_cast<size_t>(count));
  return tokens;
}

std::string Model::Describe() const {
  std::array<char, 256> text = {};
  llama_model_desc(get(), text.data(), text.size());
  return text.data();
}

Models::Models(const std::string& path, const Plugin* plugin) : stock_(path, nullptr) {
  if (plugin != nullptr) ours_.emplace(path, plugin);
}

Context::Context(const Model& model, const CacheSpec& spec, const Options& options)
    : model_(model),
      spec_(spec),
      context_(nullptr, llama_free),
      batch_(llama_batch_init(options.batch_tokens, /*embd=*/0, /*n_seq_max=*/1)),
      batch_guard_(&batch_, [](llama_batch* batch) { llama_batch_free(*batch); }) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(options.context_tokens);
  params.n_batch = static_cast<uint32_t>(options.batch_tokens);
  params.n_ubatch =
      static_cast<uint32_t>(std::min(options.micro_batch_tokens, options.batch_tokens));
  params.n_threads = options.num_threads;
  params.n_threads_batch = options.num_threads;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.offload_kqv = !spec.stock;
  params.type_k = spec.stock ? TypeNamed(spec.stock_key) : GGML_TYPE_F16;
  params.type_v = spec.stock ? TypeNamed(spec.stock_value) : GGML_TYPE_F16;
  params.cb_eval = Observe;
  params.cb_eval_user_data = this;
  params.abort_callback = [](void*) { return PendingSignal() != 0; };
  Turn([&] {
    if (!spec.stock) {
      if (model.plugin() == nullptr) throw Error(ErrorCode::kHost, "the plug-in is not loaded");
      model.plugin()->Configure(spec.policy);
    }
    context_.reset(llama_init_from_model(model.get(), params));
    if (!context_) {
      throw Error(
          ErrorCode::kHost,
          Because(fmt::format("llama.cpp cannot create a context with cache {}", spec_.label)));
    }
    const llama_token first = model.first_token();
    Decode({&first, 1}, /*first_scored=*/0);
    observing_ = false;
    Rewind(0);
  });
  CheckOwnership();
}

bool Context::Observe(ggml_tensor* node, bool ask, void* self) {
  auto* context = static_cast<Context*>(self);
  if (!ask || !context->observing_ || node->op != GGML_OP_SET_ROWS) return !ask;
  const ggml_tensor* tensor = node->view_src;
  if (tensor == nullptr || std::strncmp(tensor->name, "cache_", 6) != 0) return false;
  CacheTensor found;
  found.name = tensor->name;
  found.row_bytes = static_cast<double>(ggml_row_size(tensor->type, tensor->ne[0]));
  found.row_values = static_cast<double>(tensor->ne[0]);
  found.num_cells = tensor->ne[1];
  ggml_backend_dev_t device =
      ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor->buffer));
  found.ours =
      device != nullptr && std::strcmp(ggml_backend_dev_name(device), POLARQUANT_DEVICE_NAME) == 0;
  const auto same = [&](const CacheTensor& other) { return other.name == found.name; };
  auto& tensors = context->tensors_;
  if (std::none_of(tensors.begin(), tensors.end(), same)) tensors.push_back(found);
  return false;
}

void Context::CheckOwnership() const {
  if (tensors_.empty()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} keeps no keys and values (a recurrent model?); there is nothing to "
                            "compress",
                            model_.path()));
  }
  for (const CacheTensor& tensor : tensors_) {
    if (tensor.ours == !spec_.stock) continue;
    throw Error(ErrorCode::kHost, fmt::format("{} of cache {} {} owned by polarquant", tensor.name,
                                              spec_.label, tensor.ours ? "is" : "is not"));
  }
}

int Context::num_layers() const {
  return static_cast<int>(std::count_if(tensors_.begin(), tensors_.end(), [](const auto& tensor) {
    return tensor.name.find("k_l") != std::string::npos;
  }));
}

double Context::Decode(std::span<const llama_token> tokens, int first_scored) {
  batch_.n_tokens = static_cast<int32_t>(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    batch_.token[i] = tokens[i];
    batch_.pos[i] = filled_tokens_ + static_cast<int>(i);
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = 0;
    batch_.logits[i] = batch_.pos[i] >= first_scored;
  }
  const auto start = std::chrono::steady_clock::now();
  const int result = llama_decode(context_.get(), batch_);
  llama_synchronize(context_.get());
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  ThrowIfInterrupted();
  std::string error = spec_.stock ? "" : model_.plugin()->Status().error;
  if (result != 0 || !error.empty()) {
    if (error.empty()) error = Because(fmt::format("llama_decode returned {}", result));
    throw Error(ErrorCode::kHost, fmt::format("decoding with cache {} failed at position {}: {}",
                                              spec_.label, filled_tokens_, error));
  }
  filled_tokens_ += static_cast<int>(tokens.size());
  return taken.count();
}

std::span<const float> Context::Logits(int index) const {
  const float* logits = llama_get_logits_ith(context_.get(), index);
  if (logits == nullptr) {
    throw Error(ErrorCode::kHost, fmt::format("llama.cpp kept no logits for token {}", index));
  }
  return {logits, static_cast<size_t>(model_.vocab_size())};
}

void Context::Rewind(int position) {
  llama_memory_t memory = llama_get_memory(context_.get());
  if (position == 0) {
    llama_memory_clear(memory, /*data=*/true);
  } else if (!llama_memory_seq_rm(memory, 0, position, -1)) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{} cannot forget its last tokens (a recurrent model?)", model_.path()));
  }
  filled_tokens_ = position;
}

void Context::Turn(const std::function<void()>& work) {
  if (spec_.stock || model_.plugin() == nullptr) return work();
  const PluginStatus before = model_.plugin()->Status();
  work();
  const PluginStatus after = model_.plugin()->Status();
  plugin_size_.resident_bytes += after.kv_resident_bytes - before.kv_resident_bytes;
  plugin_size_.f16_bytes += after.f16_bytes - before.f16_bytes;
}

CacheSize Context::size() const {
  if (!spec_.stock) return plugin_size_;
  CacheSize size;
  for (const CacheTensor& tensor : tensors_) {
    const auto rows = static_cast<double>(std::min<int64_t>(filled_tokens_, tensor.num_cells));
    size.resident_bytes += rows * tensor.row_bytes;
    size.f16_bytes += rows * tensor.row_values * 2;
  }
  return size;
}

}  // namespace polarquant::cli
