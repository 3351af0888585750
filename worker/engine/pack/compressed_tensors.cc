#include "worker/engine/pack/compressed_tensors.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "fmt/format.h"
#include "worker/engine/pack/bit_packing.h"
#include "worker/engine/pack/checkpoint_directory.h"

namespace teq::pack {
namespace {

using Json = nlohmann::ordered_json;

bool Same(const LayerGrid& a, const LayerGrid& b) {
  return std::tie(a.bits, a.group_size, a.symmetric) == std::tie(b.bits, b.group_size, b.symmetric);
}

/// The layers of one grid.
struct Group {
  LayerGrid grid;
  std::vector<std::string> layers;
};

std::vector<Group> GroupsOf(const std::vector<model_info::PlannedLayer>& plan) {
  std::vector<Group> groups;
  for (const model_info::PlannedLayer& planned : plan) {
    if (!planned.grid.quantized) continue;
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& known) { return Same(known.grid, planned.grid); });
    if (group == groups.end()) group = groups.insert(group, {planned.grid, {}});
    group->layers.push_back(planned.layer.name);
  }
  return groups;
}

/// What a loader compares with a module's name.
std::string Target(const model_info::ModelConfig& config, const std::string& name) {
  return config.prefix.empty() ? "re:" + ModulePattern(config, name) : name;
}

Json Scheme(const LayerGrid& grid, const Json& targets) {
  const bool channel = grid.group_size < 0;
  return {{"targets", targets},
          {"weights",
           {{"num_bits", grid.bits},
            {"type", "int"},
            {"symmetric", grid.symmetric},
            {"strategy", channel ? "channel" : "group"},
            {"group_size", channel ? Json() : Json(grid.group_size)},
            {"block_structure", Json()},
            {"dynamic", false},
            {"actorder", Json()},
            {"observer", "minmax"},
            {"observer_kwargs", Json::object()}}},
          {"input_activations", Json()},
          {"output_activations", Json()}};
}

}  // namespace

std::vector<std::pair<std::string, torch::Tensor>> CompressedTensors(
    const std::string& layer, const quant::Quantized& quantized, bool symmetric) {
  const torch::Tensor& codes = quantized.codes;
  std::vector<std::pair<std::string, torch::Tensor>> tensors = {
      {layer + ".weight_packed", PackColumns(codes.to(torch::kCPU), quantized.bits)},
      {layer + ".weight_scale", quantized.scales.to(torch::kCPU)},
      {layer + ".weight_shape", torch::tensor({codes.size(0), codes.size(1)}, torch::kInt64)}};
  if (!symmetric) {
    tensors.emplace_back(layer + ".weight_zero_point",
                         PackRows(quantized.zeros.to(torch::kCPU), quantized.bits));
  }
  return tensors;
}

Json CompressedTensorsConfig(const PackableModel& model) {
  const std::vector<Group> groups = GroupsOf(model.plan);
  Json schemes = Json::object();
  for (const Group& group : groups) {
    Json targets = Json::array();
    for (const std::string& layer : group.layers) targets.push_back(Target(model.config, layer));
    if (groups.size() == 1) targets = {"Linear"};
    schemes[fmt::format("group_{}", schemes.size())] = Scheme(group.grid, targets);
  }
  Json ignore = Json::array();
  for (const std::string& layer : FloatLinears(model)) {
    // The head's name has no prefix to be left out.
    ignore.push_back(layer == model.config.names.head ? layer : Target(model.config, layer));
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", Json()},
          {"kv_cache_scheme", Json()},
          {"ignore", ignore},
          {"config_groups", schemes}};
}

absl::StatusOr<std::map<std::string, std::string>> WriteCompressedTensorsDirectory(
    const PackableModel& model, const std::filesystem::path& directory) {
  std::set<std::string> symmetric;
  for (const model_info::PlannedLayer& planned : model.plan) {
    if (planned.grid.symmetric) symmetric.insert(planned.layer.name);
  }
  const auto tensors = [&](const std::string& layer, const quant::Quantized& quantized) {
    return CompressedTensors(layer, quantized, symmetric.contains(layer));
  };
  return WriteCheckpointDirectory(model, CompressedTensorsConfig(model), tensors, directory);
}

}  // namespace teq::pack
