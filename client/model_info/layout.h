#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/model_info/model_config.h"
#include "client/model_info/safetensors_header.h"

namespace teq::model_info {

/// What a linear layer of a block is for.
enum class Role {
  kQuery,
  kKey,
  kValue,
  kQueryKeyValue,
  kAttentionOutput,
  kRouter,
  kSharedExpertGate,
  kGate,
  kUp,
  kGateUp,
  kDown,
};

/// The tensors of a block that linear layers read; layers of one input share its statistics. An
/// expert reads what is routed to it.
inline constexpr int kAttentionInput = 0;
inline constexpr int kAttentionMix = 1;
inline constexpr int kMlpInput = 2;
inline constexpr int kMlpHidden = 3;
[[nodiscard]] constexpr int ExpertInput(int expert) { return 4 + 2 * expert; }
[[nodiscard]] constexpr int ExpertHidden(int expert) { return 5 + 2 * expert; }
/// The step of a block's run at which an input is there: one of the first four inputs.
inline constexpr int kSteps = 4;
[[nodiscard]] constexpr int StepOf(int input) { return input < 4 ? input : 2 + input % 2; }

/// A linear layer of a model.
struct LinearLayer {
  std::string name;
  std::int64_t block = 0;
  std::size_t index = 0;  // in its block, in the order in which they run
  Role role = Role::kQuery;
  int expert = -1;  // -1: of no expert
  int input = kAttentionInput;
  std::int64_t in = 0;
  std::int64_t out = 0;
  bool bias = false;
  bool quantizable = true;  // routers and gates of one output stay float
};

/// The role under which servers such as vLLM load a layer, in one matrix with the block's others of
/// that role, so that they must have the same bits: kQueryKeyValue for a query, key or value,
/// kGateUp for a gate or up, none for an expert's layers, which are all one; else its own.
[[nodiscard]] std::optional<Role> LoadedRole(const LinearLayer& layer);

/// All linear layers of all blocks, in the order they run. Head and embeddings are not among them.
[[nodiscard]] std::vector<LinearLayer> LinearLayers(const ModelConfig& config);

/// The norms of a block by their place.
enum class NormPlace { kAttention, kMlp, kPostAttention, kPostMlp, kQuery, kKey };
inline constexpr std::size_t kNormPlaces = 6;

/// Modules of a norm, one for every head where those have weights of their own; empty: the model
/// has none there.
[[nodiscard]] std::vector<std::string> NormModules(const ModelConfig& config, std::int64_t block,
                                                   NormPlace place);

/// The module's whole name, with prefix and the block's number put in.
[[nodiscard]] std::string ModuleName(const ModelConfig& config, std::string_view pattern,
                                     std::int64_t block = 0, std::int64_t part = 0);

/// The head's whole name.
[[nodiscard]] std::string HeadName(const ModelConfig& config);

/// Fits the config to a checkpoint that left the prefix out of its names, as those saved from a
/// family's base model do, or that has the other order of a part's (language_model.model. and
/// model.language_model.).
void MatchPrefix(const CheckpointIndex& index, ModelConfig& config);

/// Where the embedding and the head lie: a tied matrix may be stored under either name.
struct VocabularyTensors {
  std::string embedding;  // [vocabulary, embedding_size]
  std::string head;       // the same name where they are tied
};

/// INVALID_CHECKPOINT where neither or the wrong one is stored.
[[nodiscard]] absl::StatusOr<VocabularyTensors> FindVocabularyTensors(const ModelConfig& config,
                                                                      const CheckpointIndex& index);

/// Where they lie in a checkpoint that transformers wrote.
[[nodiscard]] VocabularyTensors UsualVocabularyTensors(const ModelConfig& config);

/// A tensor that a model needs.
struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// Every tensor of a model; a tied matrix once, under its embedding's name.
[[nodiscard]] std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config,
                                                          const VocabularyTensors& vocabulary);

/// Checks that the checkpoint holds every tensor the model needs, in the right shape and as F32,
/// F16 or BF16. INVALID_CHECKPOINT names tensor, shape found and shape needed.
[[nodiscard]] absl::Status CheckTensors(const ModelConfig& config, const CheckpointIndex& index);

/// The tensors of a model's other parts than its decoder, by name: a vision tower, a projector.
/// None where the decoder is the model.
[[nodiscard]] std::vector<std::string> TensorsOfOtherParts(const ModelConfig& config,
                                                           const CheckpointIndex& index);

/// The modules that these lie in, as "vision_tower", each once.
[[nodiscard]] std::vector<std::string> OtherParts(const std::vector<std::string>& tensors);

/// Parameters of the model, a tied matrix counted once.
[[nodiscard]] std::int64_t CountParameters(const ModelConfig& config);

}  // namespace teq::model_info
