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

/// A linear layer's tensors in AWQ's layout, version gemm: qweight int32 [in, out/8], qzeros int32
/// [groups, out/8], scales float16 [groups, out], each with the layer's name before it. Codes have
/// 4 bits, and out is a multiple of 8. Nibble k of a word is output 0, 2, 4, 6, 1, 3, 5 or 7 of its
/// eight; zero points are stored as they are.
[[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> AwqTensors(
    const std::string& layer, const quant::Quantized& quantized);

/// config.json's quantization_config. It has one grid for the whole model. Symmetric layers store
/// their zero points of 8 like others, as `zero_point: false` is read by few loaders.
[[nodiscard]] nlohmann::ordered_json AwqConfig(const PackableModel& model);

/// As WriteCheckpointDirectory.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> WriteAwqDirectory(
    const PackableModel& model, const std::filesystem::path& directory);

}  // namespace teq::pack
