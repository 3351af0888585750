#pragma once

#include <filesystem>
#include <optional>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "torch/types.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// The tensors of one pack-quantized linear layer; without zero points all are the middle code.
struct PackQuantized {
  torch::Tensor weight_packed;                     // int32 [out, ceil(in*bits/32)]
  torch::Tensor weight_scale;                      // float16 [out, groups]
  torch::Tensor weight_shape;                      // int64 [2]: out, in
  std::optional<torch::Tensor> weight_zero_point;  // int32 [ceil(out*bits/32), groups]
};

/// Reads one linear layer. Written from the format's description alone: fields are dense, least
/// significant bit first, and hold the code and the zero point plus 2^(bits-1). DATA_LOSS, reason
/// VERIFY_FAILED: names what disagrees.
[[nodiscard]] absl::StatusOr<UnpackedLayer> UnpackCompressed(int bits, const PackQuantized& packed);

/// A published compressed-tensors directory, read back: quantization_config, every packed layer of
/// the model, and every other tensor as stored. Zero points are there exactly where the
/// layer's group is asymmetric.
[[nodiscard]] absl::StatusOr<PackedModel> ReadCompressedTensorsDirectory(
    const std::filesystem::path& directory, const model_info::ModelConfig& config);

}  // namespace teq::verify
