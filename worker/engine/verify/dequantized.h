#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// A published plain checkpoint, read back: every linear layer of the blocks as its weight alone
/// (no bits, codes, scales or zero points), and every other tensor as stored. DATA_LOSS, reason
/// VERIFY_FAILED: config.json has a quantization_config or names another type than the layers have;
/// a tensor of the model is missing, has another shape, or is not finite.
[[nodiscard]] absl::StatusOr<PackedModel> ReadDequantizedDirectory(
    const std::filesystem::path& directory, const model_info::ModelConfig& config);

}  // namespace teq::verify
