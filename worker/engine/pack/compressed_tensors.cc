#include "worker/engine/pack/compressed_tensors.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "fmt/format.h"
#include "worker/engine/pack/bit_packing.h"
#include "worker/engine/pack/checkpoint_directory.h"
#include "worker/engine/pack/module_sets.h"

namespace teq::pack {
namespace {

using Json = nlohmann::ordered_json;

bool Same(const LayerGrid& a, const LayerGrid& b) {
  return std::tie(a.bits, a.group_size, a.symmetric) == std::tie(b.bits, b.group_size, b.symmetric);
}

/// The layers of one grid.
struct Group {
  LayerGrid grid;
  std::vector<const ModuleSet*> sets;
};

std::vector<Group> GroupsOf(const std::vector<ModuleSet>& sets) {
  std::vector<Group> groups;
  for (const ModuleSet& set : sets) {
    if (!set.grid.quantized) continue;
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& known) { return Same(known.grid, set.grid); });
    if (group == groups.end()) group = groups.insert(group, {set.grid, {}});
    group->sets.push_back(&set);
  }
  return groups;
}

/// What a loader compares with a module's name.
std::string Target(const model_info::ModelConfig& config, const std::string& name) {
  // The head's name has no prefix to be left out.
  const bool fixed = !config.prefix.empty() || name == config.names.head;
  return fixed && !config.is_part ? name : "re:" + ModulePattern(config, name);
}

/// vLLM asks for the scheme of all experts by the name that most families give the first one's
/// layers. Empty: it asks for this layer by its own name, or not for it.
std::string NameForServers(const model_info::LinearLayer& layer) {
  if (layer.expert != 0) return {};
  const std::string_view usual = layer.role == model_info::Role::kGate ? "gate_proj"
                                 : layer.role == model_info::Role::kUp ? "up_proj"
                                                                       : "down_proj";
  const std::string expert = layer.name.substr(0, layer.name.rfind('.') + 1);
  return layer.name == expert + std::string(usual) ? "" : expert + std::string(usual);
}

/// Adds what loaders compare with the names of a set's modules: those of experts are one
/// expression.
void AddTargets(const model_info::ModelConfig& config, const ModuleSet& set, Json& targets) {
  const bool of_experts = !set.experts.empty();
  if (of_experts) {
    targets.push_back(fmt::format("re:{}\\.{}\\.{}$", set.parent, set.experts, AnyOf(set.names)));
  }
  for (const model_info::LinearLayer* layer : set.layers) {
    if (!of_experts) targets.push_back(Target(config, layer->name));
    if (const std::string name = NameForServers(*layer); !name.empty()) {
      targets.push_back(Target(config, name));
    }
  }
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
  const std::vector<ModuleSet> sets = ModuleSets(model.config, model.plan);
  const std::vector<Group> groups = GroupsOf(sets);
  Json schemes = Json::object();
  for (const Group& group : groups) {
    Json targets = Json::array();
    for (const ModuleSet* set : group.sets) AddTargets(model.config, *set, targets);
    if (groups.size() == 1) targets = {"Linear"};
    schemes[fmt::format("group_{}", schemes.size())] = Scheme(group.grid, targets);
  }
  Json ignore = Json::array();
  for (const std::string& layer : OuterLinears(model.config)) {
    ignore.push_back(Target(model.config, layer));
  }
  for (const ModuleSet& set : sets) {
    if (!set.grid.quantized) AddTargets(model.config, set, ignore);
  }
  for (const std::string& part : model.other_parts) ignore.push_back("re:" + PartPattern(part));
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
