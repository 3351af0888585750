#pragma once

#include <filesystem>
#include <vector>

#include "absl/status/status.h"
#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// Checks that one GGUF file can hold what a job makes of a model, and that llama.cpp computes that
/// model as teqd does: the family and its variant, the bits (2, 4 or 8 symmetric, 4 asymmetric),
/// groups that are a multiple of a block (32 codes; 256 of 2 bits), rows that fill blocks, bits
/// that target_bits may still choose, and the tokenizer in `directory`.
///
/// INVALID_ARGUMENT, FORMAT_CANNOT_HOLD: names the format, the layers or the key, and the remedy.
[[nodiscard]] absl::Status CheckGguf(const teq::v1::JobSpec& spec, const ModelConfig& config,
                                     const std::vector<PlannedLayer>& plan,
                                     const std::filesystem::path& directory);

/// Whether llama.cpp has the model: the part of CheckGguf that config.json decides.
[[nodiscard]] absl::Status CheckGgufModel(const ModelConfig& config);

}  // namespace teq::model_info
