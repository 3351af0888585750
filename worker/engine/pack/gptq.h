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

/// A linear layer's tensors in GPTQ's layout, checkpoint format v1 (zero points are stored less
/// one): qweight int32 [in*bits/32, out], qzeros int32 [groups, out*bits/32], scales float16
/// [groups, out], g_idx int32 [in], each with the layer's name before it.
[[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> GptqTensors(
    const std::string& layer, const quant::Quantized& quantized);

/// config.json's quantization_config. The most common grid is the general one; other grids and
/// float layers become rules of `dynamic`, one for each of ModuleSets, as GPTQModel and vLLM read
/// them: the first decides whose expression matches from a name's start.
[[nodiscard]] nlohmann::ordered_json GptqConfig(const PackableModel& model);

/// As WriteCheckpointDirectory, with quantize_config.json beside config.json.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> WriteGptqDirectory(
    const PackableModel& model, const std::filesystem::path& directory);

}  // namespace teq::pack
