#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "torch/types.h"
#include "worker/engine/pack/packable_model.h"
#include "worker/engine/quant/grid.h"

namespace teq::pack {

/// A linear layer's tensors in compressed-tensors' layout pack-quantized: weight_packed int32 [out,
/// ceil(in*bits/32)], weight_scale float16 [out, groups], weight_shape int64 [2] (out, in), and,
/// where the grid is asymmetric, weight_zero_point int32 [ceil(out*bits/32), groups],
/// each with the layer's name before it.
[[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> CompressedTensors(
    const std::string& layer, const quant::Quantized& quantized, bool symmetric);

/// config.json's quantization_config. A single grid is the scheme of all linear layers but the
/// ignored ones; where there are several, each names its layers, those of experts by expressions,
/// so that no layer fits two.
[[nodiscard]] nlohmann::ordered_json CompressedTensorsConfig(const PackableModel& model);

/// As WriteCheckpointDirectory.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> WriteCompressedTensorsDirectory(
    const PackableModel& model, const std::filesystem::path& directory);

}  // namespace teq::pack
