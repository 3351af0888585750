#include "worker/engine/pack/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <unordered_map>

#include "client/model_info/layout.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/types.h"
#include "worker/engine/pack/gguf_blocks.h"

namespace teq::pack {
namespace {

using model_info::ModelConfig;
using model_info::Names;
using torch::Tensor;

struct Name {
  std::string_view Names::*ours;
  std::string_view theirs;
};
struct MlpName {
  std::string_view model_info::MlpNames::*ours;
  std::string_view theirs;
};

constexpr std::array kEnds = {
    Name{&Names::positions, "position_embd"},
    Name{&Names::embedding_norm, "token_embd_norm"},
    Name{&Names::final_norm, "output_norm"},
};
constexpr std::array kBlock = {
    Name{&Names::attention_norm, "attn_norm"},
    Name{&Names::query, "attn_q"},
    Name{&Names::key, "attn_k"},
    Name{&Names::value, "attn_v"},
    Name{&Names::query_key_value, "attn_qkv"},
    Name{&Names::mlp_norm, "ffn_norm"},
    Name{&Names::attention_output, "attn_output"},
};
constexpr std::array kMlp = {
    MlpName{&model_info::MlpNames::gate, "ffn_gate"},
    MlpName{&model_info::MlpNames::up, "ffn_up"},
    MlpName{&model_info::MlpNames::down, "ffn_down"},
};

bool IsLlama(const ModelConfig& config) {
  return config.model_type == "llama" || config.model_type == "mistral";
}

/// Falcon's larger models have a norm for each of its two branches; theirs for attention is the
/// second one.
std::string_view BlockName(const ModelConfig& config, const Name& name) {
  const bool two_norms = config.parallel && !config.names.mlp_norm.empty();
  if (two_norms && name.ours == &Names::attention_norm) return "attn_norm_2";
  if (two_norms && name.ours == &Names::mlp_norm) return "attn_norm";
  return name.theirs;
}

/// The order of a module's rows; undefined: as they are.
Tensor RowOrder(const ModelConfig& config, std::string_view Names::*module) {
  if (module == &Names::query && IsLlama(config)) {
    return NeighbourPairs(config.heads, config.head_size);
  }
  if (module == &Names::key && IsLlama(config)) {
    return NeighbourPairs(config.kv_heads, config.head_size);
  }
  if (module == &Names::query_key_value && config.qkv_by_head) {
    return QueriesKeysValues(config.heads, config.kv_heads, config.head_size);
  }
  return {};
}

Tensor Ordered(const Tensor& values, const Tensor& order) {
  return order.defined() ? values.index_select(0, order) : values;
}

absl::StatusOr<Tensor> LayerBlocks(GgufType type, const quant::Quantized& quantized,
                                   const Tensor& order) {
  return EncodeBlocks(type, {.codes = Ordered(quantized.codes.to(torch::kCPU), order),
                             .scales = Ordered(quantized.scales.to(torch::kCPU), order),
                             .zeros = Ordered(quantized.zeros.to(torch::kCPU), order),
                             .bits = quantized.bits});
}

/// Collects a model's tensors; each is taken once.
class Collector {
 public:
  explicit Collector(const PackableModel& model) : model_(model) {
    for (const auto& [name, tensor] : model.floats) floats_.emplace(name, &tensor);
    for (const model_info::PlannedLayer& planned : model.plan) {
      plan_.emplace(planned.layer.name, &planned);
    }
  }

  [[nodiscard]] absl::Status AddModule(const std::string& module, const std::string& name,
                                       const Tensor& order = {}) {
    if (const auto layer = model_.layers.find(module); layer != model_.layers.end()) {
      TEQ_RETURN_IF_ERROR(AddLayer(layer->first, layer->second, name + ".weight", order));
    } else {
      AddFloat(module + ".weight", name + ".weight", order, plan_.contains(module));
    }
    AddFloat(module + ".bias", name + ".bias", order, /*is_linear=*/false);
    return absl::OkStatus();
  }

  /// Everything that the model has, now that all known modules are there.
  [[nodiscard]] absl::StatusOr<std::vector<GgufTensor>> Take() {
    if (!floats_.empty()) {
      return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                   fmt::format("tensor {} has no name in GGUF", floats_.begin()->first));
    }
    if (layers_ != model_.layers.size()) {
      return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                   fmt::format("{} of {} quantized layers have no name in GGUF",
                               model_.layers.size() - layers_, model_.layers.size()));
    }
    return std::move(tensors_);
  }

  void Add(GgufTensor tensor) { tensors_.push_back(std::move(tensor)); }

 private:
  absl::Status AddLayer(const std::string& module, const quant::Quantized& quantized,
                        const std::string& name, const Tensor& order) {
    TEQ_ASSIGN_OR_RETURN(const GgufType type, TypeOf(plan_.at(module)->grid, quantized));
    tensors_.push_back({name,
                        type,
                        {quantized.codes.size(0), quantized.codes.size(1)},
                        [type, &quantized, order, module]() -> absl::StatusOr<Tensor> {
                          auto blocks = LayerBlocks(type, quantized, order);
                          if (blocks.ok()) return blocks;
                          return WithContext(blocks.status(), "layer " + module);
                        }});
    ++layers_;
    return absl::OkStatus();
  }

  void AddFloat(const std::string& source, const std::string& name, const Tensor& order,
                bool is_linear) {
    const auto found = floats_.find(source);
    if (found == floats_.end()) return;
    const Tensor values =
        is_linear && model_.config.transposed_linears ? found->second->t() : *found->second;
    floats_.erase(found);
    GgufType type = values.scalar_type() == torch::kBFloat16 ? GgufType::kBF16 : GgufType::kF16;
    // llama.cpp adds these to float32 values.
    if (values.dim() < 2 || name == "position_embd.weight") type = GgufType::kF32;
    tensors_.push_back({name, type, values.sizes().vec(), [type, values, order] {
                          return EncodeFloats(type, Ordered(values, order));
                        }});
  }

  const PackableModel& model_;
  std::unordered_map<std::string, const Tensor*> floats_;
  std::unordered_map<std::string, const model_info::PlannedLayer*> plan_;
  std::vector<GgufTensor> tensors_;
  std::size_t layers_ = 0;
};

/// A tied matrix is stored once, under the embedding's or the head's name.
absl::Status AddVocabularyMatrices(const ModelConfig& config, Collector& collector) {
  const std::string head = model_info::HeadName(config);
  TEQ_RETURN_IF_ERROR(
      collector.AddModule(model_info::ModuleName(config, config.names.embedding), "token_embd"));
  return collector.AddModule(head, config.tied_embeddings ? "token_embd" : "output");
}

absl::Status AddBlock(const ModelConfig& config, std::int64_t block, Collector& collector) {
  const auto add = [&](std::string_view pattern, std::string_view name, const Tensor& order) {
    return pattern.empty() ? absl::OkStatus()
                           : collector.AddModule(model_info::ModuleName(config, pattern, block),
                                                 fmt::format("blk.{}.{}", block, name), order);
  };
  for (const Name& name : kBlock) {
    TEQ_RETURN_IF_ERROR(
        add(config.names.*name.ours, BlockName(config, name), RowOrder(config, name.ours)));
  }
  for (const MlpName& name : kMlp) {
    TEQ_RETURN_IF_ERROR(add(config.names.mlp.*name.ours, name.theirs, {}));
  }
  return absl::OkStatus();
}

/// Llama 3's scaling by frequency: long waves are stretched by the factor, short ones kept, those
/// between in part. float32 [dimensions / 2].
Tensor Llama3Divisors(const model_info::Rotary& rotary) {
  constexpr double kTurn = 2 * 3.14159265358979323846;
  const model_info::RopeScaling& scaling = *rotary.scaling;
  const auto original = static_cast<double>(scaling.original_max_positions);
  Tensor divisors = torch::empty({rotary.dimensions / 2}, torch::kFloat32);
  auto* out = divisors.data_ptr<float>();
  for (std::int64_t i = 0; i < divisors.numel(); ++i) {
    const double exponent = 2 * static_cast<double>(i) / static_cast<double>(rotary.dimensions);
    const double turns = original / (kTurn * std::pow(rotary.theta, exponent));
    const double kept =
        std::clamp((turns - scaling.low_frequency_factor) /
                       (scaling.high_frequency_factor - scaling.low_frequency_factor),
                   0.0, 1.0);
    out[i] = static_cast<float>(1 / (kept + (1 - kept) / scaling.factor));
  }
  return divisors;
}

}  // namespace

Tensor NeighbourPairs(std::int64_t heads, std::int64_t head_size) {
  return torch::arange(heads * head_size).view({heads, 2, head_size / 2}).transpose(1, 2).flatten();
}

Tensor QueriesKeysValues(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_size) {
  const std::int64_t queries = heads / kv_heads;
  const Tensor rows =
      torch::arange((heads + 2 * kv_heads) * head_size).view({kv_heads, queries + 2, head_size});
  return torch::cat({rows.slice(1, 0, queries).flatten(), rows.select(1, queries).flatten(),
                     rows.select(1, queries + 1).flatten()});
}

absl::StatusOr<std::vector<GgufTensor>> GgufTensors(const PackableModel& model) {
  const ModelConfig& config = model.config;
  Collector collector(model);
  TEQ_RETURN_IF_ERROR(AddVocabularyMatrices(config, collector));
  for (const Name& name : kEnds) {
    const std::string_view pattern = config.names.*name.ours;
    if (pattern.empty()) continue;
    TEQ_RETURN_IF_ERROR(
        collector.AddModule(model_info::ModuleName(config, pattern), std::string(name.theirs)));
  }
  const auto& scaling = config.rotary.scaling;
  if (scaling && scaling->kind == model_info::RopeScaling::Kind::kLlama3) {
    const Tensor divisors = Llama3Divisors(config.rotary);
    collector.Add({"rope_freqs.weight", GgufType::kF32, divisors.sizes().vec(),
                   [divisors] { return EncodeFloats(GgufType::kF32, divisors); }});
  }
  for (std::int64_t block = 0; block < config.layers; ++block) {
    TEQ_RETURN_IF_ERROR(AddBlock(config, block, collector));
  }
  return collector.Take();
}

}  // namespace teq::pack
