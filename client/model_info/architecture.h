#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "client/model_info/model_config.h"
#include "client/model_info/safetensors_header.h"

namespace teq::model_info {

/// What a linear layer of a block is for.
enum class Role { kQuery, kKey, kValue, kAttentionOutput, kGate, kUp, kDown };
inline constexpr int kRoles = 7;

/// One family of decoders as data: its tensors' names, with `{}` for the block's number, and what
/// varies. The decoder (worker/engine/model) and the scale groups (worker/engine/teq) read it;
/// adding a family adds a row to the table and a golden test.
struct Architecture {
  std::string_view model_type;  // config.json's
  std::string_view embedding;   // module names
  std::string_view final_norm;
  std::string_view head;
  std::string_view attention_norm;
  std::string_view mlp_norm;
  std::string_view linears[kRoles];  // by Role
};

/// The families that are known.
[[nodiscard]] std::span<const Architecture> Architectures();

/// The row of a model type; null where it is not known.
[[nodiscard]] const Architecture* FindArchitecture(std::string_view model_type);

/// "model.layers.{}.mlp.up_proj" with the block's number put in.
[[nodiscard]] std::string ModuleName(std::string_view pattern, std::int64_t block);

/// A linear layer of a model.
struct LinearLayer {
  std::string name;
  std::int64_t block = 0;
  Role role = Role::kQuery;
  std::int64_t in = 0;
  std::int64_t out = 0;
  bool bias = false;
};

/// All linear layers of all blocks, in the order they run. Head and embeddings are not among them.
[[nodiscard]] std::vector<LinearLayer> LinearLayers(const Architecture& architecture,
                                                    const ModelConfig& config);

/// Where the embedding and the head lie: a tied matrix may be stored under either name.
struct VocabularyTensors {
  std::string embedding;  // [vocabulary, hidden]
  std::string head;       // the same name where they are tied
};

/// INVALID_CHECKPOINT where neither or the wrong one is stored.
[[nodiscard]] absl::StatusOr<VocabularyTensors> FindVocabularyTensors(
    const Architecture& architecture, const ModelConfig& config, const CheckpointIndex& index);

/// Checks that the checkpoint holds every tensor the architecture needs, in the right shape and as
/// F32, F16 or BF16. INVALID_CHECKPOINT names tensor, shape found and shape needed.
[[nodiscard]] absl::Status CheckTensors(const Architecture& architecture, const ModelConfig& config,
                                        const CheckpointIndex& index);

/// Parameters of the model, a tied matrix counted once.
[[nodiscard]] std::int64_t CountParameters(const Architecture& architecture,
                                           const ModelConfig& config);

}  // namespace teq::model_info
