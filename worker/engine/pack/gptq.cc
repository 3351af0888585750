#include "worker/engine/pack/gptq.h"

#include <array>
#include <tuple>

#include "client/objects/publication.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/pack/bit_packing.h"

namespace teq::pack {
namespace {

using Json = nlohmann::ordered_json;
using Grid = std::tuple<int, int, bool>;  // bits, group_size, symmetric

// What a loader needs beside the weights.
constexpr std::array kCompanionFiles = {
    "tokenizer.json",          "tokenizer.model",   "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja",     "vocab.json",        "merges.txt"};

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

/// A regular expression for exactly one module's name.
std::string ExactPattern(const std::string& name) {
  std::string pattern = "^";
  for (const char c : name) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

std::string_view TypeName(torch::ScalarType type) {
  return type == torch::kBFloat16 ? "bfloat16" : "float16";
}

absl::Status CopyFile(const std::filesystem::path& from, const std::filesystem::path& to) {
  TEQ_ASSIGN_OR_RETURN(const std::string content, objects::ReadFile(from));
  return objects::WriteFileAtomically(to, content);
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

Json GptqConfig(const std::vector<model_info::PlannedLayer>& plan) {
  const Grid general = MostCommonGrid(plan);
  const auto [bits, group_size, symmetric] = general;
  Json dynamic = Json::object();
  for (const auto& planned : plan) {
    const std::string pattern = ExactPattern(planned.layer.name);
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
                 {"true_sequential", false},
                 {"static_groups", false},
                 {"lm_head", false},
                 {"pack_dtype", "int32"},
                 {"meta", {{"quantizer", {fmt::format("teqd:{}", TEQ_VERSION)}}}}};
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  return config;
}

absl::StatusOr<std::map<std::string, std::string>> WriteGptqDirectory(
    const PackableModel& model, const std::filesystem::path& directory) {
  const Json quantization = GptqConfig(model.plan);
  Json config = model.config.source;
  config["torch_dtype"] = TypeName(model.floats.front().second.scalar_type());
  config["quantization_config"] = quantization;
  TEQ_RETURN_IF_ERROR(
      objects::WriteFileAtomically(directory / "config.json", config.dump(2) + "\n"));
  TEQ_RETURN_IF_ERROR(objects::WriteFileAtomically(directory / "quantize_config.json",
                                                   quantization.dump(2) + "\n"));
  std::vector<std::pair<std::string, torch::Tensor>> tensors = model.floats;
  for (const auto& [name, quantized] : model.layers) {
    for (auto& tensor : GptqTensors(name, quantized)) tensors.push_back(std::move(tensor));
  }
  TEQ_RETURN_IF_ERROR(checkpoint::WriteSafetensors(directory / "model.safetensors", tensors));
  for (const std::string_view name : kCompanionFiles) {
    if (!std::filesystem::exists(model.source / name)) continue;
    TEQ_RETURN_IF_ERROR(CopyFile(model.source / name, directory / name));
  }
  std::map<std::string, std::string> digests;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    TEQ_ASSIGN_OR_RETURN(digests[entry.path().filename().string()],
                         objects::FileSha256(entry.path()));
  }
  return digests;
}

}  // namespace teq::pack
