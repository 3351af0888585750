#include "worker/engine/pack/gptq.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "client/objects/publication.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/pack/bit_packing.h"
#include "worker/engine/pack/checkpoint_directory.h"
#include "worker/engine/pack/module_sets.h"

namespace teq::pack {
namespace {

using Json = nlohmann::ordered_json;
using Grid = std::tuple<int, int, bool>;  // bits, group_size, symmetric

Grid Key(const LayerGrid& grid) { return {grid.bits, grid.group_size, grid.symmetric}; }

Grid MostCommonGrid(const std::vector<model_info::PlannedLayer>& plan) {
  std::map<Grid, int> counts;
  for (const auto& planned : plan) {
    if (planned.grid.quantized) ++counts[Key(planned.grid)];
  }
  Grid best{};
  int most = 0;
  for (const auto& [grid, count] : counts) {
    if (count > most) std::tie(best, most) = std::tuple(grid, count);
  }
  return best;
}

/// Matches the set's modules, and the one that servers such as vLLM load them in beside others:
/// they ask a rule for that name alone.
std::string RulePattern(const ModuleSet& set) {
  if (!set.experts.empty()) {
    // All experts are one module.
    return fmt::format("{}(?:\\.{}\\.{})?$", set.parent, set.experts, AnyOf(set.names));
  }
  std::vector<std::string> names = set.names;
  for (const model_info::LinearLayer* layer : set.layers) {
    const std::optional<model_info::Role> role = model_info::LoadedRole(*layer);
    if (role == layer->role) continue;
    const std::string loaded =
        role == model_info::Role::kQueryKeyValue ? "qkv_proj" : "gate_up_proj";
    if (std::ranges::find(names, loaded) == names.end()) names.push_back(loaded);
  }
  return fmt::format("{}\\.{}$", set.parent, AnyOf(names));
}

/// The modules of a block that are rounded, by their names in it: transformers follows no rules,
/// and takes all linear layers of a block for rounded where it is not told these. Null where all
/// are, or where such a list cannot say which.
Json RoundedInEveryBlock(const PackableModel& model) {
  // An expert's name is not the one under which servers load all of them, and a larger model's
  // other parts have modules of the same names.
  if (model.config.experts.count > 0 || model.config.is_part) return {};
  std::map<std::string, bool> rounded;  // by name in a block
  bool has_float = false;
  for (const auto& planned : model.plan) {
    const std::string block = fmt::format(".{}.", planned.layer.block);
    const std::string name =
        planned.layer.name.substr(planned.layer.name.find(block) + block.size());
    const bool is_rounded = planned.grid.quantized;
    if (rounded.try_emplace(name, is_rounded).first->second != is_rounded) return {};
    has_float = has_float || !is_rounded;
  }
  if (!has_float) return {};
  Json names = Json::array();
  for (const auto& [name, is_rounded] : rounded) {
    if (is_rounded) names.push_back(name);
  }
  return Json::array({names});
}

}  // namespace

std::vector<std::pair<std::string, torch::Tensor>> GptqTensors(const std::string& layer,
                                                               const quant::Quantized& quantized) {
  const std::int64_t columns = quantized.codes.size(1);
  const std::int64_t groups = quantized.scales.size(1);
  const torch::Tensor stored_zeros = quantized.zeros.to(torch::kCPU) - 1;
  return {{layer + ".qweight", PackRows(quantized.codes.to(torch::kCPU).t(), quantized.bits)},
          {layer + ".qzeros", PackRows(stored_zeros, quantized.bits).t()},
          {layer + ".scales", quantized.scales.to(torch::kCPU).t()},
          {layer + ".g_idx",
           torch::div(torch::arange(columns, torch::kInt32), columns / groups, "floor")}};
}

Json GptqConfig(const PackableModel& model) {
  const Grid general = MostCommonGrid(model.plan);
  const auto [bits, group_size, symmetric] = general;
  Json dynamic = Json::object();
  for (const std::string& part : model.other_parts) {
    dynamic["-:" + PartPattern(part)] = Json::object();
  }
  for (const ModuleSet& set : ModuleSets(model.config, model.plan)) {
    if (!set.grid.quantized) {
      dynamic["-:" + RulePattern(set)] = Json::object();
    } else if (Key(set.grid) != general) {
      dynamic["+:" + RulePattern(set)] = {{"bits", set.grid.bits},
                                          {"group_size", set.grid.group_size},
                                          {"sym", set.grid.symmetric}};
    }
  }
  Json config = {{"quant_method", "gptq"},
                 {"bits", bits},
                 {"group_size", group_size},
                 {"sym", symmetric},
                 {"desc_act", false},
                 {"checkpoint_format", "gptq"},
                 {"damp_percent", 0.01},  // no loader uses it; older ones want it there
                 {"true_sequential", false},
                 {"static_groups", false},
                 {"lm_head", false},
                 {"pack_dtype", "int32"},
                 {"model_name_or_path", nullptr},
                 {"model_file_base_name", "model"},
                 {"meta", {{"quantizer", {fmt::format("teqd:{}", TEQ_VERSION)}}}}};
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  if (const Json names = RoundedInEveryBlock(model); !names.is_null()) {
    config["modules_in_block_to_quantize"] = names;
  }
  return config;
}

absl::StatusOr<std::map<std::string, std::string>> WriteGptqDirectory(
    const PackableModel& model, const std::filesystem::path& directory) {
  const Json quantization = GptqConfig(model);
  TEQ_ASSIGN_OR_RETURN(auto digests,
                       WriteCheckpointDirectory(model, quantization, GptqTensors, directory));
  const std::string text = quantization.dump(2) + "\n";
  digests["quantize_config.json"] = objects::Sha256(text);
  TEQ_RETURN_IF_ERROR(objects::WriteFileAtomically(directory / "quantize_config.json", text));
  return digests;
}

}  // namespace teq::pack
