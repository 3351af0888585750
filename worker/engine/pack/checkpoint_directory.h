#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/plan.h"
#include "nlohmann/json.hpp"
#include "torch/types.h"
#include "worker/engine/pack/packable_model.h"

// What the formats have in common that are Hugging Face checkpoints.
namespace teq::pack {

/// A layer's tensors in a format, each with the layer's name before it.
using LayerTensors =
    std::function<absl::StatusOr<std::vector<std::pair<std::string, torch::Tensor>>>(
        const std::string& layer, const quant::Quantized& quantized)>;

/// Writes a directory that a loader can be given: config.json with `quantization` as its
/// quantization_config (null: without), the weights, and the source's tokenizer, generation and
/// license files. Weights are model.safetensors or, where they are larger than a shard,
/// model-00001-of-0000N.safetensors and so on with model.safetensors.index.json; a tensor is never
/// divided. One layer's tensors are held at a time; `layer_tensors` is also asked once for every
/// grid and shape of layers, before anything is written. Returns every file's sha256, by name, of
/// the bytes that were to be written: what lies on the disk is compared with it later.
/// RESOURCE_EXHAUSTED, DISK_FULL.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> WriteCheckpointDirectory(
    const PackableModel& model, const nlohmann::ordered_json& quantization,
    const LayerTensors& layer_tensors, const std::filesystem::path& directory);

/// Whether the source's tokenizer, generation and license files, which every such directory has,
/// can be read. INVALID_ARGUMENT, INVALID_CHECKPOINT, names one that is a directory; READ_FAILED.
[[nodiscard]] absl::Status CheckCompanions(const std::filesystem::path& source,
                                           const model_info::ModelConfig& config);

/// The type in which most of the model's values that are not rounded are published; config.json
/// names it, and what is computed for the model is stored in it.
[[nodiscard]] torch::ScalarType FloatType(const PackableModel& model);

/// The linear layers outside the blocks, which stay float: the head, and projections.
[[nodiscard]] std::vector<std::string> OuterLinears(const model_info::ModelConfig& config);

/// A regular expression that matches exactly the module `name` of a loaded model. Where the
/// checkpoint leaves out its family's prefix, the loaded model's names have it. Before the names of
/// a larger model's decoder, loaders write language_model and model in both orders.
[[nodiscard]] std::string ModulePattern(const model_info::ModelConfig& config,
                                        std::string_view name);

/// One that matches all modules of another part of a loaded model than its decoder.
[[nodiscard]] std::string PartPattern(std::string_view part);

/// What the names that loaders give a module of a larger model's decoder end in; else `name`.
[[nodiscard]] std::string_view NameInPart(const model_info::ModelConfig& config,
                                          std::string_view name);

}  // namespace teq::pack
