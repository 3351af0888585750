#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace teq::model_info {

/// Llama 3's stretching of low rotary frequencies (config.json's rope_scaling of rope_type
/// "llama3"), and the "linear" kind, which divides every position by `factor`.
struct RopeScaling {
  enum class Kind { kLinear, kLlama3 };
  Kind kind = Kind::kLinear;
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  std::int64_t original_max_positions = 0;
};

/// What config.json says, in one vocabulary for all families.
struct ModelConfig {
  std::string model_type;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_size = 0;
  std::int64_t vocabulary_size = 0;
  std::int64_t max_positions = 0;
  std::int64_t sliding_window = 0;  // tokens a position sees, itself included; 0: all before it
  double norm_epsilon = 1e-5;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool tied_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  nlohmann::ordered_json source;  // the whole of config.json, for what is published
};

/// Reads `directory`/config.json.
///
/// NOT_FOUND, MODEL_NOT_FOUND. INVALID_ARGUMENT: INVALID_MODEL_CONFIG (names the key and the
/// value), UNKNOWN_ARCHITECTURE (names model_type and the families that are known),
/// UNSUPPORTED_MODEL for a known family's variant that teqd cannot run exactly, such as another
/// kind of rope_scaling, and for a checkpoint that is already quantized.
[[nodiscard]] absl::StatusOr<ModelConfig> ReadModelConfig(const std::filesystem::path& directory);

/// The same from parsed JSON; `where` names it in messages.
[[nodiscard]] absl::StatusOr<ModelConfig> ParseModelConfig(const nlohmann::ordered_json& json,
                                                           const std::string& where);

}  // namespace teq::model_info
