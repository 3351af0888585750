#include "client/model_info/layout.h"

#include <set>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

/// Adds linear layers of one block, giving them their indices.
class BlockLayers {
 public:
  BlockLayers(const ModelConfig& config, std::int64_t block, std::vector<LinearLayer>& layers)
      : config_(config), block_(block), layers_(layers) {}

  /// Adds nothing where the family has no such module.
  void Add(std::string_view pattern, LinearLayer layer) {
    if (pattern.empty()) return;
    layer.name = ModuleName(config_, pattern, block_, layer.expert);
    layer.block = block_;
    layer.index = count_++;
    layers_.push_back(std::move(layer));
  }

  void AddAttention() {
    const Names& names = config_.names;
    const std::int64_t hidden = config_.hidden_size;
    const std::int64_t query = config_.heads * config_.head_size;
    const std::int64_t key = config_.kv_heads * config_.head_size;
    const LinearLayer reader{.input = kAttentionInput, .in = hidden, .bias = config_.qkv_bias};
    const auto add = [&](std::string_view pattern, Role role, std::int64_t out) {
      LinearLayer layer = reader;
      layer.role = role;
      layer.out = out;
      Add(pattern, std::move(layer));
    };
    add(names.query, Role::kQuery, query);
    add(names.key, Role::kKey, key);
    add(names.value, Role::kValue, key);
    add(names.query_key_value, Role::kQueryKeyValue, query + 2 * key);
    Add(names.attention_output, {.role = Role::kAttentionOutput,
                                 .input = kAttentionMix,
                                 .in = query,
                                 .out = hidden,
                                 .bias = config_.attention_output_bias});
  }

  void AddMlp(const MlpNames& names, int expert, int input, int hidden_input, std::int64_t width) {
    const auto add = [&](std::string_view pattern, Role role, std::int64_t out) {
      Add(pattern, {.role = role,
                    .expert = expert,
                    .input = input,
                    .in = config_.hidden_size,
                    .out = out,
                    .bias = config_.mlp_bias});
    };
    add(names.gate, Role::kGate, width);
    add(names.up, Role::kUp, width);
    add(names.gate_up, Role::kGateUp, 2 * width);
    Add(names.down, {.role = Role::kDown,
                     .expert = expert,
                     .input = hidden_input,
                     .in = width,
                     .out = config_.hidden_size,
                     .bias = config_.mlp_bias});
  }

  void AddExperts() {
    const auto add_gate = [&](std::string_view pattern, Role role, std::int64_t out) {
      Add(pattern, {.role = role,
                    .input = kMlpInput,
                    .in = config_.hidden_size,
                    .out = out,
                    .quantizable = false});
    };
    add_gate(config_.names.router, Role::kRouter, config_.experts.count);
    add_gate(config_.names.shared_expert_gate, Role::kSharedExpertGate, 1);
    AddMlp(config_.names.shared_expert, -1, kMlpInput, kMlpHidden,
           config_.experts.shared_intermediate_size);
    for (int expert = 0; expert < static_cast<int>(config_.experts.count); ++expert) {
      AddMlp(config_.names.expert, expert, ExpertInput(expert), ExpertHidden(expert),
             config_.experts.intermediate_size);
    }
  }

  void AddAll() {
    AddAttention();
    if (config_.IsSparse(block_)) {
      AddExperts();
    } else {
      AddMlp(config_.names.mlp, -1, config_.names.mlp_norm.empty() ? kAttentionInput : kMlpInput,
             kMlpHidden, config_.intermediate_size);
    }
  }

 private:
  const ModelConfig& config_;
  std::int64_t block_;
  std::vector<LinearLayer>& layers_;
  std::size_t count_ = 0;
};

std::string_view NormPattern(const Names& names, NormPlace place) {
  switch (place) {
    case NormPlace::kAttention:
      return names.attention_norm;
    case NormPlace::kMlp:
      return names.mlp_norm;
    case NormPlace::kPostAttention:
      return names.post_attention_norm;
    case NormPlace::kPostMlp:
      return names.post_mlp_norm;
    case NormPlace::kQuery:
      return names.query_norm;
    case NormPlace::kKey:
      return names.key_norm;
  }
  return {};
}

void AddNorm(const std::string& module, std::int64_t width, bool bias,
             std::vector<ExpectedTensor>& tensors) {
  tensors.push_back({module + ".weight", {width}});
  if (bias) tensors.push_back({module + ".bias", {width}});
}

void AddBlockNorms(const ModelConfig& config, std::int64_t block,
                   std::vector<ExpectedTensor>& tensors) {
  for (std::size_t place = 0; place < kNormPlaces; ++place) {
    const auto where = static_cast<NormPlace>(place);
    const bool of_heads = where == NormPlace::kQuery || where == NormPlace::kKey;
    for (const std::string& module : NormModules(config, block, where)) {
      AddNorm(module, of_heads ? config.head_size : config.hidden_size,
              config.norm_bias && !of_heads, tensors);
    }
  }
}

/// What stands before and after the blocks, but for embedding and head.
void AddEnds(const ModelConfig& config, std::vector<ExpectedTensor>& tensors) {
  const Names& names = config.names;
  const std::int64_t hidden = config.hidden_size;
  if (!names.positions.empty()) {
    tensors.push_back({ModuleName(config, names.positions) + ".weight",
                       {config.max_positions + config.position_offset, hidden}});
  }
  for (const std::string_view norm : {names.embedding_norm, names.final_norm}) {
    if (!norm.empty()) AddNorm(ModuleName(config, norm), hidden, config.norm_bias, tensors);
  }
  if (!names.project_in.empty()) {
    tensors.push_back(
        {ModuleName(config, names.project_in) + ".weight", {hidden, config.embedding_size}});
    tensors.push_back(
        {ModuleName(config, names.project_out) + ".weight", {config.embedding_size, hidden}});
  }
}

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

std::string ModuleName(const ModelConfig& config, std::string_view pattern, std::int64_t block,
                       std::int64_t part) {
  return config.prefix + fmt::format(fmt::runtime(pattern), block, part);
}

std::optional<Role> LoadedRole(const LinearLayer& layer) {
  if (layer.expert >= 0) return std::nullopt;
  switch (layer.role) {
    case Role::kQuery:
    case Role::kKey:
    case Role::kValue:
      return Role::kQueryKeyValue;
    case Role::kGate:
    case Role::kUp:
      return Role::kGateUp;
    default:
      return layer.role;
  }
}

std::vector<LinearLayer> LinearLayers(const ModelConfig& config) {
  std::vector<LinearLayer> layers;
  for (std::int64_t block = 0; block < config.layers; ++block) {
    BlockLayers(config, block, layers).AddAll();
  }
  return layers;
}

std::vector<std::string> NormModules(const ModelConfig& config, std::int64_t block,
                                     NormPlace place) {
  const std::string_view pattern = NormPattern(config.names, place);
  if (pattern.empty()) return {};
  std::int64_t parts = 1;
  if (config.norm_by_head && place == NormPlace::kQuery) parts = config.heads;
  if (config.norm_by_head && place == NormPlace::kKey) parts = config.kv_heads;
  std::vector<std::string> modules;
  modules.reserve(static_cast<std::size_t>(parts));
  for (std::int64_t part = 0; part < parts; ++part) {
    modules.push_back(ModuleName(config, pattern, block, part));
  }
  return modules;
}

std::string HeadName(const ModelConfig& config) {
  return fmt::format("{}{}", config.head_prefix, config.names.head);
}

void MatchPrefix(const CheckpointIndex& index, ModelConfig& config) {
  const std::string embedding = fmt::format("{}.weight", config.names.embedding);
  const std::string other = config.is_part ? "model.language_model." : "";
  if (index.tensors.contains(config.prefix + embedding) ||
      !index.tensors.contains(other + embedding)) {
    return;
  }
  config.prefix = other;
  config.head_prefix.clear();
}

absl::StatusOr<VocabularyTensors> FindVocabularyTensors(const ModelConfig& config,
                                                        const CheckpointIndex& index) {
  VocabularyTensors names = UsualVocabularyTensors(config);
  if (config.tied_embeddings && !index.tensors.contains(names.embedding)) {
    const std::string head = HeadName(config) + ".weight";
    if (index.tensors.contains(head)) names = {head, head};
  }
  for (const std::string& name : {names.embedding, names.head}) {
    if (index.tensors.contains(name)) continue;
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
                 fmt::format("{}: tensor {} is missing", index.directory.string(), name));
  }
  return names;
}

VocabularyTensors UsualVocabularyTensors(const ModelConfig& config) {
  const std::string embedding = ModuleName(config, config.names.embedding) + ".weight";
  return {embedding, config.tied_embeddings ? embedding : HeadName(config) + ".weight"};
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config,
                                            const VocabularyTensors& vocabulary) {
  const std::vector<std::int64_t> matrix = {config.vocabulary_size, config.embedding_size};
  std::vector<ExpectedTensor> tensors = {{vocabulary.embedding, matrix}};
  if (vocabulary.head != vocabulary.embedding) tensors.push_back({vocabulary.head, matrix});
  if (config.head_bias) {
    tensors.push_back({HeadName(config) + ".bias", {config.vocabulary_size}});
  }
  AddEnds(config, tensors);
  for (std::int64_t block = 0; block < config.layers; ++block) {
    AddBlockNorms(config, block, tensors);
  }
  for (const LinearLayer& layer : LinearLayers(config)) {
    const bool transposed = config.transposed_linears;
    tensors.push_back({layer.name + ".weight",
                       {transposed ? layer.in : layer.out, transposed ? layer.out : layer.in}});
    if (layer.bias) tensors.push_back({layer.name + ".bias", {layer.out}});
  }
  return tensors;
}

absl::Status CheckTensors(const ModelConfig& config, const CheckpointIndex& index) {
  TEQ_ASSIGN_OR_RETURN(const VocabularyTensors names, FindVocabularyTensors(config, index));
  for (const ExpectedTensor& tensor : ExpectedTensors(config, names)) {
    TEQ_RETURN_IF_ERROR(CheckTensor(index, tensor));
  }
  return absl::OkStatus();
}

std::vector<std::string> TensorsOfOtherParts(const ModelConfig& config,
                                             const CheckpointIndex& index) {
  if (!config.is_part) return {};
  std::vector<std::string> names;
  for (const auto& [name, tensor] : index.tensors) {
    // What the decoder has beside its tensors, in either order of names, it does not need.
    const bool is_decoders = name.starts_with("language_model.") ||
                             name.starts_with("model.language_model.") ||
                             name.starts_with(HeadName(config) + ".");
    if (!is_decoders) names.push_back(name);
  }
  return names;
}

std::vector<std::string> OtherParts(const std::vector<std::string>& tensors) {
  constexpr std::string_view kBase = "model.";
  std::set<std::string> parts;
  for (const std::string& tensor : tensors) {
    const std::size_t begin = tensor.starts_with(kBase) ? kBase.size() : 0;
    parts.insert(tensor.substr(begin, tensor.find('.', begin) - begin));
  }
  return {parts.begin(), parts.end()};
}

std::int64_t CountParameters(const ModelConfig& config) {
  std::int64_t count = 0;
  for (const ExpectedTensor& tensor : ExpectedTensors(config, UsualVocabularyTensors(config))) {
    std::int64_t size = 1;
    for (const std::int64_t extent : tensor.shape) size *= extent;
    count += size;
  }
  return count;
}

}  // namespace teq::model_info
