#include "worker/engine/verify/packed_model.h"

#include <array>
#include <memory>
#include <string_view>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/verify/fields.h"
#include "worker/engine/verify/gptq_config.h"
#include "worker/engine/verify/published_files.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 4> kPackedParts = {"qweight", "qzeros", "scales", "g_idx"};

absl::StatusOr<GptqConfig> ReadConfig(const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(const Json config, ReadJson(directory / "config.json"));
  const Json quantization = config.value("quantization_config", Json());
  if (std::filesystem::exists(directory / "quantize_config.json")) {
    TEQ_ASSIGN_OR_RETURN(const Json copy, ReadJson(directory / "quantize_config.json"));
    // Not ordered: the order of keys means nothing here.
    if (nlohmann::json(copy) != nlohmann::json(quantization)) {
      return Bad("quantize_config.json: differs from config.json's quantization_config");
    }
  }
  return GptqConfig::Parse(quantization);
}

absl::Status CheckGroups(const UnpackedLayer& layer, const torch::Tensor& g_idx,
                         const LayerClaim& claim, bool desc_act) {
  const std::int64_t columns = g_idx.numel();
  const std::int64_t claimed = claim.group_size == -1 ? columns : claim.group_size;
  if (layer.group_size != claimed) {
    return Bad(fmt::format("scales: has groups of {} columns, but config.json says {}",
                           layer.group_size, claim.group_size));
  }
  if (desc_act) return absl::OkStatus();
  const torch::Tensor expected =
      torch::arange(columns, torch::kInt32).div_(layer.group_size, "floor");
  if (const torch::Tensor wrong = g_idx.ne(expected); wrong.any().item<bool>()) {
    const std::int64_t column = wrong.nonzero()[0].item<std::int64_t>();
    return Bad(fmt::format("g_idx: is {} at column {}; expected {}, as desc_act is false",
                           g_idx[column].item<std::int32_t>(), column,
                           expected[column].item<std::int32_t>()));
  }
  return absl::OkStatus();
}

absl::Status CheckSymmetry(const UnpackedLayer& layer, const LayerClaim& claim) {
  if (!claim.symmetric) return absl::OkStatus();
  const std::int32_t middle = 1 << (claim.bits - 1);
  if (const torch::Tensor wrong = layer.zeros.ne(middle); wrong.any().item<bool>()) {
    return Bad(fmt::format("qzeros: means a zero point of {}; expected {}, as sym is true",
                           layer.zeros.masked_select(wrong)[0].item<std::int32_t>(), middle));
  }
  return absl::OkStatus();
}

absl::StatusOr<UnpackedLayer> ReadLayer(const checkpoint::Checkpoint& checkpoint,
                                        const std::string& module, const GptqConfig& config) {
  const LayerClaim claim = config.ClaimOf(module);
  if (!claim.packed) return Bad("qweight: is there, but config.json says that the layer is float");
  std::array<torch::Tensor, kPackedParts.size()> parts;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    absl::StatusOr<torch::Tensor> part =
        checkpoint.Read(fmt::format("{}.{}", module, kPackedParts[i]));
    if (!part.ok())
      return Bad(fmt::format("{}: {}", kPackedParts[i], std::string(part.status().message())));
    parts[i] = *std::move(part);
  }
  const auto& [qweight, qzeros, scales, g_idx] = parts;
  TEQ_ASSIGN_OR_RETURN(UnpackedLayer layer, UnpackGptq(claim.bits, qweight, qzeros, scales, g_idx));
  TEQ_RETURN_IF_ERROR(CheckGroups(layer, g_idx, claim, config.desc_act()));
  TEQ_RETURN_IF_ERROR(CheckSymmetry(layer, claim));
  TEQ_RETURN_IF_ERROR(CheckBias(checkpoint, module, layer.codes.size(0)));
  return layer;
}

/// A linear layer's float weight is right only where config.json leaves the layer float: a loader
/// would look for packed tensors otherwise.
absl::Status CheckFloat(const model_info::TensorInfo& info, const GptqConfig& config) {
  constexpr std::string_view kSuffix = ".weight";
  if (!info.name.ends_with(kSuffix) || info.shape.size() != 2) return absl::OkStatus();
  const std::string_view module =
      std::string_view(info.name).substr(0, info.name.size() - kSuffix.size());
  if (!config.ClaimOf(module).packed) return absl::OkStatus();
  return Bad(
      fmt::format("layer {}: weight: is {} [{}, {}], but config.json says that the layer is packed",
                  module, model_info::Name(info.dtype), info.shape[0], info.shape[1]));
}

absl::StatusOr<PackedModel> ReadModel(const std::filesystem::path& directory,
                                      const checkpoint::Checkpoint& checkpoint,
                                      const std::shared_ptr<const GptqConfig>& config) {
  PackedModel model;
  for (const auto& [name, info] : checkpoint.index().tensors) {
    const std::string module(ModuleOf(name, kPackedParts));
    if (module.empty()) {
      TEQ_RETURN_IF_ERROR(CheckFloat(info, *config));
      model.tensors[name] = [checkpoint, name = name] { return checkpoint.Read(name); };
    } else {
      if (checkpoint.Has(module + ".weight")) {
        return InLayer(Bad("weight: lies beside the packed tensors"), directory, module);
      }
      model.layers.try_emplace(module, [=]() -> absl::StatusOr<UnpackedLayer> {
        absl::StatusOr<UnpackedLayer> layer = ReadLayer(checkpoint, module, *config);
        if (!layer.ok()) return InLayer(layer.status(), directory, module);
        return layer;
      });
    }
  }
  return model;
}

}  // namespace

absl::StatusOr<PackedModel> ReadGptqDirectory(const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(GptqConfig parsed, ReadConfig(directory));
  const auto config = std::make_shared<const GptqConfig>(std::move(parsed));
  TEQ_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint, OpenPublished(directory));
  absl::StatusOr<PackedModel> model = ReadModel(directory, checkpoint, config);
  if (!model.ok()) return WithContext(AsVerifyFailed(model.status()), directory.string());
  return model;
}

}  // namespace teq::verify
