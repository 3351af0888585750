#include "worker/engine/verify/published_files.h"

#include "client/model_info/layout.h"
#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/fields.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

/// A linear module of the model; outside the blocks its shape is nobody's claim.
struct LinearModule {
  std::string name;
  std::int64_t out = 0;
  std::int64_t in = 0;
};

std::vector<LinearModule> LinearModules(const model_info::ModelConfig& config) {
  std::vector<LinearModule> modules;
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(config)) {
    modules.push_back({layer.name, layer.out, layer.in});
  }
  modules.push_back({model_info::HeadName(config), config.vocabulary_size, config.embedding_size});
  const auto add = [&](std::string_view pattern, std::int64_t out, std::int64_t in) {
    if (!pattern.empty()) modules.push_back({model_info::ModuleName(config, pattern), out, in});
  };
  add(config.names.project_in, config.hidden_size, config.embedding_size);
  add(config.names.project_out, config.embedding_size, config.hidden_size);
  return modules;
}

absl::Status CheckLayer(const checkpoint::Checkpoint& checkpoint, const LinearModule& module,
                        const LayerClaim& claim, const UnpackedLayer& layer) {
  if (layer.codes.size(0) != module.out || layer.codes.size(1) != module.in) {
    return Bad(fmt::format("has {} outputs and {} inputs; the model's layer has {} and {}",
                           layer.codes.size(0), layer.codes.size(1), module.out, module.in));
  }
  const std::int64_t claimed = claim.group_size == -1 ? module.in : claim.group_size;
  if (layer.group_size != claimed) {
    return Bad(fmt::format("has groups of {} columns, but config.json says {}", layer.group_size,
                           claim.group_size));
  }
  return CheckBias(checkpoint, module.name, module.out);
}

absl::Status AddModule(const std::filesystem::path& directory,
                       const checkpoint::Checkpoint& checkpoint, const LinearModule& module,
                       const LayoutReader& reader, PackedModel& model) {
  TEQ_ASSIGN_OR_RETURN(const LayerClaim claim, reader.claim_of(module.name));
  if (!claim.packed) return absl::OkStatus();
  if (checkpoint.Has(module.name + ".weight")) {
    for (const std::string_view part : reader.parts) {
      if (checkpoint.Has(fmt::format("{}.{}", module.name, part))) {
        return Bad("weight", "lies beside the packed tensors");
      }
    }
    return Bad("weight", "is float, but config.json says that the layer is packed");
  }
  const auto read = [=, read = reader.read]() -> absl::StatusOr<UnpackedLayer> {
    TEQ_ASSIGN_OR_RETURN(UnpackedLayer layer, read(module.name, claim));
    TEQ_RETURN_IF_ERROR(CheckLayer(checkpoint, module, claim, layer));
    return layer;
  };
  model.layers.emplace(module.name, [=]() -> absl::StatusOr<UnpackedLayer> {
    absl::StatusOr<UnpackedLayer> layer = read();
    if (!layer.ok()) return InLayer(layer.status(), directory, module.name);
    return layer;
  });
  return absl::OkStatus();
}

}  // namespace

absl::Status AsVerifyFailed(const absl::Status& status) {
  return Bad(std::string(status.message()));
}

absl::Status InLayer(const absl::Status& status, const std::filesystem::path& directory,
                     const std::string& module) {
  return WithContext(AsVerifyFailed(WithContext(status, "layer " + module)), directory.string());
}

absl::StatusOr<Json> ReadJson(const std::filesystem::path& file) {
  const absl::StatusOr<std::string> text = objects::ReadFile(file);
  if (!text.ok()) return AsVerifyFailed(text.status());
  Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Bad(fmt::format("{}: is no JSON object", file.string()));
  return json;
}

absl::StatusOr<checkpoint::Checkpoint> OpenPublished(const std::filesystem::path& directory) {
  absl::StatusOr<checkpoint::Checkpoint> checkpoint = checkpoint::Checkpoint::Open(directory);
  if (!checkpoint.ok()) return AsVerifyFailed(checkpoint.status());
  return checkpoint;
}

std::string_view ModuleOf(std::string_view tensor, std::span<const std::string_view> parts) {
  const std::size_t dot = tensor.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view part = tensor.substr(dot + 1);
  for (const std::string_view known : parts) {
    if (part == known) return tensor.substr(0, dot);
  }
  return {};
}

absl::StatusOr<torch::Tensor> ReadPart(const checkpoint::Checkpoint& checkpoint,
                                       const std::string& module, std::string_view part) {
  absl::StatusOr<torch::Tensor> tensor = checkpoint.Read(fmt::format("{}.{}", module, part));
  if (!tensor.ok()) return Bad(part, std::string(tensor.status().message()));
  return tensor;
}

absl::Status CheckBias(const checkpoint::Checkpoint& checkpoint, const std::string& module,
                       std::int64_t outputs) {
  const auto& tensors = checkpoint.index().tensors;
  const auto bias = tensors.find(module + ".bias");
  if (bias == tensors.end() || bias->second.shape == std::vector<std::int64_t>{outputs}) {
    return absl::OkStatus();
  }
  return Bad(fmt::format("bias: its shape is not [{}]", outputs));
}

absl::StatusOr<PackedModel> ReadLayout(const std::filesystem::path& directory,
                                       const checkpoint::Checkpoint& checkpoint,
                                       const model_info::ModelConfig& config,
                                       const LayoutReader& reader) {
  PackedModel model;
  for (const LinearModule& module : LinearModules(config)) {
    const absl::Status status = AddModule(directory, checkpoint, module, reader, model);
    if (!status.ok()) return WithContext(status, "layer " + module.name);
  }
  for (const auto& [name, info] : checkpoint.index().tensors) {
    const std::string module(ModuleOf(name, reader.parts));
    if (model.layers.contains(module)) continue;
    if (!module.empty()) {
      return Bad(name, "is there, but config.json says that the layer is float");
    }
    model.tensors[name] = [checkpoint, name = name] { return checkpoint.Read(name); };
  }
  return model;
}

}  // namespace teq::verify
