#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "torch/types.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// Reads one linear layer from AWQ's tensors, version gemm: `qweight` int32 [in, out/8], `qzeros`
/// int32 [groups, out/8], `scales` float16 [groups, out]. Written from the format's description
/// alone. DATA_LOSS, reason VERIFY_FAILED: names what disagrees.
[[nodiscard]] absl::StatusOr<UnpackedLayer> UnpackAwq(const torch::Tensor& qweight,
                                                      const torch::Tensor& qzeros,
                                                      const torch::Tensor& scales);

/// A published AWQ directory, read back: quantization_config (bits, group_size, zero_point,
/// version, modules_to_not_convert), every packed layer of the model, every other tensor as stored.
/// A module is left float by any entry that is part of its name, as loaders compare them.
[[nodiscard]] absl::StatusOr<PackedModel> ReadAwqDirectory(const std::filesystem::path& directory,
                                                           const model_info::ModelConfig& config);

}  // namespace teq::verify
