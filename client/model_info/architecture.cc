#include "client/model_info/architecture.h"

#include <array>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

constexpr Architecture LlamaLike(std::string_view model_type) {
  return {
      .model_type = model_type,
      .embedding = "model.embed_tokens",
      .final_norm = "model.norm",
      .head = "lm_head",
      .attention_norm = "model.layers.{}.input_layernorm",
      .mlp_norm = "model.layers.{}.post_attention_layernorm",
      .linears = {"model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj",
                  "model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj",
                  "model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj",
                  "model.layers.{}.mlp.down_proj"},
  };
}

// TinyLlama and SmolLM call themselves llama.
constexpr std::array kArchitectures = {LlamaLike("llama"), LlamaLike("mistral")};

struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

absl::Status CheckTensor(const CheckpointIndex& index, const ExpectedTensor& expected) {
  const auto found = index.tensors.find(expected.name);
  if (found == index.tensors.end()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
        fmt::format("{}: tensor {} is missing; config.json needs it in shape [{}]",
                    index.directory.string(), expected.name, fmt::join(expected.shape, ", ")));
  }
  const TensorInfo& tensor = found->second;
  if (tensor.shape != expected.shape) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
        fmt::format("{}: tensor {} has shape [{}]; config.json needs [{}]", tensor.file.string(),
                    expected.name, fmt::join(tensor.shape, ", "), fmt::join(expected.shape, ", ")));
  }
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBF16) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
                 fmt::format("{}: tensor {} has type {}; supported: F32, F16, BF16",
                             tensor.file.string(), expected.name, Name(tensor.dtype)));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Architecture> Architectures() { return kArchitectures; }

const Architecture* FindArchitecture(std::string_view model_type) {
  for (const Architecture& row : kArchitectures) {
    if (row.model_type == model_type) return &row;
  }
  return nullptr;
}

std::string ModuleName(std::string_view pattern, std::int64_t block) {
  return fmt::format(fmt::runtime(pattern), block);
}

std::vector<LinearLayer> LinearLayers(const Architecture& architecture, const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = config.heads * config.head_size;
  const std::int64_t key = config.kv_heads * config.head_size;
  const std::int64_t mlp = config.intermediate_size;
  struct Shape {
    std::int64_t in, out;
    bool bias;
  };
  const Shape shapes[kRoles] = {
      {hidden, query, config.attention_bias}, {hidden, key, config.attention_bias},
      {hidden, key, config.attention_bias},   {query, hidden, config.attention_bias},
      {hidden, mlp, config.mlp_bias},         {hidden, mlp, config.mlp_bias},
      {mlp, hidden, config.mlp_bias}};
  std::vector<LinearLayer> layers;
  layers.reserve(static_cast<std::size_t>(config.layers) * kRoles);
  for (std::int64_t block = 0; block < config.layers; ++block) {
    for (int role = 0; role < kRoles; ++role) {
      layers.push_back({ModuleName(architecture.linears[role], block), block,
                        static_cast<Role>(role), shapes[role].in, shapes[role].out,
                        shapes[role].bias});
    }
  }
  return layers;
}

absl::StatusOr<VocabularyTensors> FindVocabularyTensors(const Architecture& architecture,
                                                        const ModelConfig& config,
                                                        const CheckpointIndex& index) {
  VocabularyTensors names{fmt::format("{}.weight", architecture.embedding),
                          fmt::format("{}.weight", architecture.head)};
  const bool has_embedding = index.tensors.contains(names.embedding);
  const bool has_head = index.tensors.contains(names.head);
  if (config.tied_embeddings) {
    if (!has_embedding && has_head) names.embedding = names.head;
    names.head = names.embedding;
  }
  if (!index.tensors.contains(names.embedding) || !index.tensors.contains(names.head)) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
                 fmt::format("{}: tensor {} is missing", index.directory.string(),
                             has_embedding ? names.head : names.embedding));
  }
  return names;
}

absl::Status CheckTensors(const Architecture& architecture, const ModelConfig& config,
                          const CheckpointIndex& index) {
  TEQ_ASSIGN_OR_RETURN(const VocabularyTensors names,
                       FindVocabularyTensors(architecture, config, index));
  std::vector<ExpectedTensor> expected = {
      {names.embedding, {config.vocabulary_size, config.hidden_size}},
      {names.head, {config.vocabulary_size, config.hidden_size}},
      {fmt::format("{}.weight", architecture.final_norm), {config.hidden_size}}};
  for (std::int64_t block = 0; block < config.layers; ++block) {
    for (const std::string_view norm : {architecture.attention_norm, architecture.mlp_norm}) {
      expected.push_back({ModuleName(norm, block) + ".weight", {config.hidden_size}});
    }
  }
  for (const LinearLayer& layer : LinearLayers(architecture, config)) {
    expected.push_back({layer.name + ".weight", {layer.out, layer.in}});
    if (layer.bias) expected.push_back({layer.name + ".bias", {layer.out}});
  }
  for (const ExpectedTensor& tensor : expected) TEQ_RETURN_IF_ERROR(CheckTensor(index, tensor));
  return absl::OkStatus();
}

std::int64_t CountParameters(const Architecture& architecture, const ModelConfig& config) {
  const std::int64_t matrix = config.vocabulary_size * config.hidden_size;
  std::int64_t count = matrix * (config.tied_embeddings ? 1 : 2) + config.hidden_size +
                       config.layers * 2 * config.hidden_size;
  for (const LinearLayer& layer : LinearLayers(architecture, config)) {
    count += layer.in * layer.out + (layer.bias ? layer.out : 0);
  }
  return count;
}

}  // namespace teq::model_info
