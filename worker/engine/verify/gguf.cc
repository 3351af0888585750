#include "worker/engine/verify/gguf.h"

#include <charconv>
#include <cmath>
#include <memory>
#include <set>
#include <string_view>

#include "client/model_info/layout.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/types.h"
#include "worker/engine/verify/gguf_blocks.h"
#include "worker/engine/verify/gguf_file.h"

namespace teq::verify {
namespace {

using Json = nlohmann::json;
using model_info::ModelConfig;
using torch::Tensor;

absl::Status Bad(std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED", message);
}

bool RotatesNeighbours(const ModelConfig& config) {
  return config.model_type == "llama" || config.model_type == "mistral";
}

/// What llama.cpp calls the model's parts, as the pattern of the checkpoint's name; empty: nothing.
std::string_view PatternOf(const ModelConfig& config, std::string_view part) {
  const model_info::Names& names = config.names;
  if (part == "attn_q") return names.query;
  if (part == "attn_k") return names.key;
  if (part == "attn_v") return names.value;
  if (part == "attn_qkv") return names.query_key_value;
  if (part == "attn_output") return names.attention_output;
  if (part == "ffn_gate") return names.mlp.gate;
  if (part == "ffn_up") return names.mlp.up;
  if (part == "ffn_down") return names.mlp.down;
  if (part == "ffn_norm") return config.model_type == "falcon" ? "" : names.mlp_norm;
  // Falcon's attn_norm feeds the MLP, and attention too where there is no second one.
  const bool two = config.model_type == "falcon" && !names.mlp_norm.empty();
  if (part == "attn_norm") return two ? names.mlp_norm : names.attention_norm;
  if (part == "attn_norm_2") return two ? names.attention_norm : "";
  return {};
}

/// "blk.12.attn_q" as the block's number and the part.
bool SplitBlock(std::string_view name, std::int64_t& block, std::string_view& part) {
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), block);
  const auto digits = static_cast<std::size_t>(end - name.data());
  if (error != std::errc() || digits >= name.size() || name[digits] != '.') return false;
  part = name.substr(digits + 1);
  return true;
}

/// Undoes what llama.cpp's order does to the rows of a part. Rows are the first dimension.
class RowRestorer {
 public:
  RowRestorer(const ModelConfig& config, std::string_view part) : config_(config), part_(part) {}

  [[nodiscard]] Tensor operator()(const Tensor& rows) const {
    if (!rows.defined()) return rows;
    if (part_ == "attn_q" && RotatesNeighbours(config_)) return Halves(rows, config_.heads);
    if (part_ == "attn_k" && RotatesNeighbours(config_)) return Halves(rows, config_.kv_heads);
    if (part_ == "attn_qkv" && config_.qkv_by_head) return ByHead(rows);
    return rows;
  }

 private:
  /// Neighbours of a head, (0, 1), (2, 3), ..., become halves of it: 0, 2, ..., 1, 3, ...
  [[nodiscard]] Tensor Halves(const Tensor& rows, std::int64_t heads) const {
    const Tensor pairs = rows.reshape({heads, config_.head_size / 2, 2, -1});
    return torch::cat({pairs.select(2, 0), pairs.select(2, 1)}, 1).reshape(rows.sizes());
  }

  [[nodiscard]] Tensor ByHead(const Tensor& rows) const {
    const std::int64_t groups = config_.kv_heads;
    const std::int64_t keys = groups * config_.head_size;
    const std::int64_t queries = config_.heads * config_.head_size;
    const auto part = [&](std::int64_t begin, std::int64_t count) {
      return rows.slice(0, begin, begin + count).reshape({groups, count / groups, -1});
    };
    return torch::cat({part(0, queries), part(queries, keys), part(queries + keys, keys)}, 1)
        .reshape(rows.sizes());
  }

  const ModelConfig& config_;
  std::string_view part_;
};

/// Checks the metadata that decides what llama.cpp computes.
class MetadataCheck {
 public:
  MetadataCheck(const GgufFile& file, const ModelConfig& config) : file_(file), config_(config) {}

  absl::Status Run() {
    architecture_ = RotatesNeighbours(config_) ? "llama" : config_.model_type;
    const Json& architecture = Find("general.architecture");
    if (architecture != architecture_) return Wrong("general.architecture", architecture_);
    TEQ_RETURN_IF_ERROR(CheckSizes());
    const bool layer_norm = config_.norm == model_info::NormKind::kLayer;
    TEQ_RETURN_IF_ERROR(
        Near(Key(layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
             config_.norm_epsilon));
    if (config_.positions == model_info::PositionKind::kRotary) TEQ_RETURN_IF_ERROR(CheckRotary());
    const Json& tokens = Find("tokenizer.ggml.tokens");
    if (!tokens.is_array() || static_cast<std::int64_t>(tokens.size()) != config_.vocabulary_size) {
      return Bad(fmt::format("tokenizer.ggml.tokens lists {} tokens; expected {}", tokens.size(),
                             config_.vocabulary_size));
    }
    return absl::OkStatus();
  }

 private:
  [[nodiscard]] const Json& Find(const std::string& key) const {
    const auto found = file_.values().find(key);
    return found == file_.values().end() ? none_ : found->second;
  }
  [[nodiscard]] std::string Key(std::string_view key) const {
    return fmt::format("{}.{}", architecture_, key);
  }
  [[nodiscard]] absl::Status Wrong(const std::string& key, std::string_view expected) const {
    const Json& found = Find(key);
    return Bad(fmt::format(
        "{} is {}; expected {}", key,
        found.is_null() || found.is_string() ? "missing or another text" : found.dump(), expected));
  }
  [[nodiscard]] absl::Status Equal(const std::string& key, std::int64_t expected) const {
    const Json& found = Find(key);
    if (found.is_number_integer() && found == expected) return absl::OkStatus();
    return Wrong(key, fmt::format("{}", expected));
  }
  [[nodiscard]] absl::Status Near(const std::string& key, double expected) const {
    const Json& found = Find(key);
    if (found.is_number() && std::abs(found.get<double>() - expected) <= 1e-6 * expected) {
      return absl::OkStatus();
    }
    return Wrong(key, fmt::format("{}", expected));
  }

  absl::Status CheckSizes() {
    const std::pair<std::string_view, std::int64_t> sizes[] = {
        {"block_count", config_.layers},
        {"embedding_length", config_.hidden_size},
        {"feed_forward_length", config_.intermediate_size},
        {"attention.head_count", config_.heads},
        {"attention.head_count_kv", config_.kv_heads},
        {"attention.key_length", config_.head_size},
        {"attention.value_length", config_.head_size},
    };
    for (const auto& [key, size] : sizes) TEQ_RETURN_IF_ERROR(Equal(Key(key), size));
    // llama.cpp sees all positions; where the model's windows do not, no context may be longer.
    std::int64_t context = config_.max_positions;
    for (const std::int64_t window : config_.windows) {
      if (window != 0 && window < context) context = window;
    }
    return Equal(Key("context_length"), context);
  }

  absl::Status CheckRotary() {
    TEQ_RETURN_IF_ERROR(Equal(Key("rope.dimension_count"), config_.rotary.dimensions));
    TEQ_RETURN_IF_ERROR(Near(Key("rope.freq_base"), config_.rotary.theta));
    using Kind = model_info::RopeScaling::Kind;
    const auto& scaling = config_.rotary.scaling;
    const bool by_tensor = scaling && scaling->kind == Kind::kLlama3;
    if (by_tensor != file_.tensors().contains("rope_freqs.weight")) {
      return Bad("tensor rope_freqs.weight must be there for rope_scaling of type llama3 alone");
    }
    if (by_tensor) return CheckDivisors(file_.tensors().at("rope_freqs.weight"));
    if (!scaling) {
      if (Find(Key("rope.scaling.type")).is_null()) return absl::OkStatus();
      return Wrong(Key("rope.scaling.type"), "nothing");
    }
    const std::string_view type = scaling->kind == Kind::kYarn ? "yarn" : "linear";
    if (Find(Key("rope.scaling.type")) != type) return Wrong(Key("rope.scaling.type"), type);
    if (scaling->kind == Kind::kYarn) {
      TEQ_RETURN_IF_ERROR(
          Equal(Key("rope.scaling.original_context_length"), scaling->original_max_positions));
    }
    return Near(Key("rope.scaling.factor"), scaling->factor);
  }

  /// Against the definition in wavelengths, as Meta gave it.
  absl::Status CheckDivisors(const GgufFile::Tensor& stored) const {
    const std::int64_t count = config_.rotary.dimensions / 2;
    if (stored.type != 0 || stored.shape != std::vector<std::int64_t>{count}) {
      return Bad(fmt::format("tensor rope_freqs.weight is no float32 [{}]", count));
    }
    const model_info::RopeScaling& scaling = *config_.rotary.scaling;
    const auto original = static_cast<double>(scaling.original_max_positions);
    const Tensor found = CopyFloats(stored);
    for (std::int64_t i = 0; i < count; ++i) {
      const double frequency =
          std::pow(config_.rotary.theta,
                   -2.0 * static_cast<double>(i) / static_cast<double>(config_.rotary.dimensions));
      const double wavelength = 2 * std::acos(-1.0) / frequency;
      double scaled = frequency;
      if (wavelength > original / scaling.low_frequency_factor) {
        scaled = frequency / scaling.factor;
      } else if (wavelength >= original / scaling.high_frequency_factor) {
        const double smooth = (original / wavelength - scaling.low_frequency_factor) /
                              (scaling.high_frequency_factor - scaling.low_frequency_factor);
        scaled = (1 - smooth) * frequency / scaling.factor + smooth * frequency;
      }
      const double expected = frequency / scaled;
      if (!(std::abs(found[i].item<float>() - expected) <= 1e-5 * expected)) {
        return Bad(fmt::format("tensor rope_freqs.weight is {} at {}; expected {}",
                               found[i].item<float>(), i, expected));
      }
    }
    return absl::OkStatus();
  }

  const GgufFile& file_;
  const ModelConfig& config_;
  std::string architecture_;
  const Json none_;
};

/// What a tensor of the file is in the model, and its reading, which what it makes owns.
class ModelReader : public std::enable_shared_from_this<ModelReader> {
 public:
  ModelReader(std::filesystem::path path, GgufFile file, ModelConfig config)
      : path_(std::move(path)), file_(std::move(file)), config_(std::move(config)) {
    for (const model_info::LinearLayer& layer : model_info::LinearLayers(config_)) {
      linears_.insert(layer.name);
    }
  }

  absl::StatusOr<PackedModel> Read() {
    TEQ_RETURN_IF_ERROR(MetadataCheck(file_, config_).Run());
    for (const auto& [name, tensor] : file_.tensors()) {
      // CheckRotary has looked at it.
      if (name == "rope_freqs.weight") continue;
      const absl::Status status = AddTensor(name, tensor);
      if (!status.ok()) return WithContext(status, "tensor " + name);
    }
    return std::move(model_);
  }

 private:
  absl::Status AddTensor(const std::string& name, const GgufFile::Tensor& tensor) {
    const std::size_t dot = name.rfind('.');
    const std::string suffix = dot == std::string::npos ? "" : name.substr(dot);
    if (suffix != ".weight" && suffix != ".bias") return Bad("is neither weight nor bias");
    const std::string_view base = std::string_view(name).substr(0, dot);
    std::int64_t block = 0;
    std::string_view part = base;
    const bool in_block = SplitBlock(base, block, part);
    if (in_block && (block < 0 || block >= config_.layers)) return Bad("is of no block");
    const std::string_view pattern = in_block ? PatternOf(config_, part) : EndPattern(base);
    if (pattern.empty()) return Bad("is no part of the model");
    const std::string module = base == "output" ? model_info::HeadName(config_)
                                                : model_info::ModuleName(config_, pattern, block);
    TEQ_RETURN_IF_ERROR(CheckRows(tensor, part));
    const std::string order(in_block ? part : "");
    if (HoldsCodes(tensor)) return AddLayer(module, suffix, name, order);
    const bool transposed =
        config_.transposed_linears && tensor.shape.size() == 2 && linears_.contains(module);
    const auto read = [self = shared_from_this(), name, order, transposed]() {
      return self->Named<Tensor>(
          name, [&](const GgufFile::Tensor& stored) -> absl::StatusOr<Tensor> {
            const Tensor values = RowRestorer(self->config_, order)(CopyFloats(stored));
            return transposed ? values.t() : values;
          });
    };
    model_.tensors[module + suffix] = read;
    if (base == "token_embd" && config_.tied_embeddings) {
      model_.tensors[model_info::HeadName(config_) + suffix] = read;
    }
    return absl::OkStatus();
  }

  [[nodiscard]] std::string_view EndPattern(std::string_view base) const {
    const model_info::Names& names = config_.names;
    if (base == "token_embd") return names.embedding;
    if (base == "position_embd") return names.positions;
    if (base == "token_embd_norm") return names.embedding_norm;
    if (base == "output_norm") return names.final_norm;
    if (base == "output" && !config_.tied_embeddings) return names.head;
    return {};
  }

  /// Where rows are put in another order, there must be as many as the heads have.
  [[nodiscard]] absl::Status CheckRows(const GgufFile::Tensor& tensor,
                                       std::string_view part) const {
    std::int64_t expected = tensor.shape.front();
    if (part == "attn_q") expected = config_.heads * config_.head_size;
    if (part == "attn_k") expected = config_.kv_heads * config_.head_size;
    if (part == "attn_qkv") expected = (config_.heads + 2 * config_.kv_heads) * config_.head_size;
    if (tensor.shape.front() == expected) return absl::OkStatus();
    return Bad(fmt::format("has {} rows; expected {}", tensor.shape.front(), expected));
  }

  absl::Status AddLayer(const std::string& module, const std::string& suffix,
                        const std::string& name, const std::string& order) {
    if (suffix != ".weight" || !linears_.contains(module)) {
      return Bad("holds codes, but is no linear layer");
    }
    model_.layers[module] = [self = shared_from_this(), name, order]() {
      return self->Named<UnpackedLayer>(
          name, [&](const GgufFile::Tensor& stored) -> absl::StatusOr<UnpackedLayer> {
            TEQ_ASSIGN_OR_RETURN(UnpackedLayer layer, DecodeBlocks(stored));
            const RowRestorer restore(self->config_, order);
            layer.codes = restore(layer.codes);
            layer.scales = restore(layer.scales);
            layer.zeros = restore(layer.zeros);
            layer.weight = restore(layer.weight);
            return layer;
          });
    };
    return absl::OkStatus();
  }

  /// What `read` makes of a tensor, with its errors named.
  template <typename Result, typename Read>
  absl::StatusOr<Result> Named(const std::string& name, const Read& read) const {
    try {
      absl::StatusOr<Result> result = read(file_.tensors().at(name));
      if (result.ok()) return result;
      return WithContext(WithContext(result.status(), "tensor " + name), path_.string());
    } catch (const c10::Error& error) {
      return Bad(
          fmt::format("{}: tensor {}: {}", path_.string(), name, error.what_without_backtrace()));
    }
  }

  const std::filesystem::path path_;
  const GgufFile file_;
  const ModelConfig config_;
  std::set<std::string> linears_;
  PackedModel model_;
};

}  // namespace

absl::StatusOr<PackedModel> ReadGgufDirectory(const std::filesystem::path& directory,
                                              const ModelConfig& config) {
  const std::filesystem::path path = directory / "model.gguf";
  TEQ_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  try {
    absl::StatusOr<PackedModel> model =
        std::make_shared<ModelReader>(path, std::move(file), config)->Read();
    if (!model.ok()) return WithContext(model.status(), path.string());
    return model;
  } catch (const c10::Error& error) {
    return Bad(fmt::format("{}: {}", path.string(), error.what_without_backtrace()));
  }
}

}  // namespace teq::verify
