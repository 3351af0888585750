#include "worker/engine/pack/gptq.h"

#include <tuple>

#include "client/objects/publication.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/pack/bit_packing.h"
#include "worker/engine/pack/checkpoint_directory.h"

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
  for (const auto& planned : model.plan) {
    const std::string pattern = ModulePattern(model.config, planned.layer.name);
    if (!planned.grid.quantized) {
      dynamic["-:" + pattern] = Json::object();
    } else if (Key(planned.grid) != general) {
      dynamic["+:" + pattern] = {{"bits", planned.grid.bits},
                                 {"group_size", planned.grid.group_size},
                                 {"sym", planned.grid.symmetric}};
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
