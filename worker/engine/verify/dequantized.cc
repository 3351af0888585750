#include "worker/engine/verify/dequantized.h"

#include <string>

#include "client/model_info/layout.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/fields.h"
#include "worker/engine/verify/published_files.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

std::string_view TypeName(model_info::DType type) {
  switch (type) {
    case model_info::DType::kF16:
      return "float16";
    case model_info::DType::kBF16:
      return "bfloat16";
    default:
      return model_info::Name(type);
  }
}

/// Loaders give the model the type that config.json names, whatever is stored.
absl::Status CheckType(const Json& config, model_info::DType type) {
  for (const std::string_view key : {"torch_dtype", "dtype"}) {
    const auto named = config.find(key);
    if (named == config.end() && key == "dtype") continue;
    if (named != config.end() && *named == TypeName(type)) continue;
    return Bad(fmt::format("config.json: {} is {}, but the weights are {}", key,
                           named == config.end() ? "missing" : named->dump(), TypeName(type)));
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedModel> Read(const std::filesystem::path& directory,
                                 const model_info::ModelConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const Json json, ReadJson(directory / "config.json"));
  if (!json.value("quantization_config", Json()).is_null()) {
    return Bad("config.json: has a quantization_config, but the weights are plain");
  }
  TEQ_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint, OpenPublished(directory));
  TEQ_RETURN_IF_ERROR(model_info::CheckTensors(config, checkpoint.index()));
  PackedModel model;
  for (const std::string& name : model_info::TensorsOfOtherParts(config, checkpoint.index())) {
    model.tensors[name] = [checkpoint, name] { return checkpoint.Read(name); };
  }
  for (const auto& [name, info] : checkpoint.index().tensors) {
    if (model.tensors.contains(name)) continue;
    model.tensors[name] = [checkpoint, directory, name = name]() -> absl::StatusOr<torch::Tensor> {
      TEQ_ASSIGN_OR_RETURN(torch::Tensor tensor, checkpoint.Read(name));
      const absl::Status finite = CheckFinite(name, tensor);
      if (!finite.ok()) return WithContext(AsVerifyFailed(finite), directory.string());
      return tensor;
    };
  }
  for (const model_info::LinearLayer& linear : model_info::LinearLayers(config)) {
    const std::string weight = linear.name + ".weight";
    TEQ_RETURN_IF_ERROR(CheckType(json, checkpoint.index().tensors.at(weight).dtype));
    const auto read = model.tensors.extract(weight).mapped();
    model.layers[linear.name] =
        [read, transposed = config.transposed_linears]() -> absl::StatusOr<UnpackedLayer> {
      TEQ_ASSIGN_OR_RETURN(const torch::Tensor stored, read());
      UnpackedLayer layer;
      layer.weight = stored.to(torch::kFloat32);
      if (transposed) layer.weight = layer.weight.t();
      return layer;
    };
  }
  return model;
}

}  // namespace

absl::StatusOr<PackedModel> ReadDequantizedDirectory(const std::filesystem::path& directory,
                                                     const model_info::ModelConfig& config) {
  absl::StatusOr<PackedModel> model = Read(directory, config);
  if (!model.ok()) return WithContext(AsVerifyFailed(model.status()), directory.string());
  return model;
}

}  // namespace teq::verify
