#include "worker/engine/pack/awq.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>

#include "ATen/Parallel.h"
#include "fmt/format.h"
#include "worker/engine/pack/checkpoint_directory.h"

namespace teq::pack {
namespace {

// The output of a word's eight that each nibble holds, from the lowest.
constexpr std::array<int, 8> kOutputOfNibble = {0, 2, 4, 6, 1, 3, 5, 7};

/// [rows, out], uint8, to int32 [rows, out / 8].
torch::Tensor PackInterleaved(const torch::Tensor& codes) {
  TORCH_CHECK(codes.dim() == 2 && codes.size(1) % 8 == 0,
              "outputs do not fill words: ", codes.sizes());
  const torch::Tensor source = codes.contiguous();
  torch::Tensor words = torch::empty({source.size(0), source.size(1) / 8}, torch::kInt32);
  const auto* in = source.data_ptr<std::uint8_t>();
  auto* out = reinterpret_cast<std::uint32_t*>(words.data_ptr<std::int32_t>());
  constexpr std::int64_t kGrain = 4096;
  at::parallel_for(0, words.numel(), kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t word = first; word < last; ++word) {
      std::uint32_t packed = 0;
      for (std::size_t nibble = 0; nibble < 8; ++nibble) {
        packed |= std::uint32_t{in[word * 8 + kOutputOfNibble[nibble]]} << (4 * nibble);
      }
      out[word] = packed;
    }
  });
  return words;
}

/// The module that holds all experts of the layer's block.
std::string ExpertsModule(const model_info::LinearLayer& layer) {
  return layer.name.substr(0, layer.name.rfind(fmt::format(".{}.", layer.expert)));
}

/// What stays float. Where no expert of a block is rounded it is the module that holds them, for
/// which servers ask and with which the experts' names begin. Loaders that put something before the
/// names that are known here may look at a name's ends only, and need each.
std::vector<std::string> FloatModules(const PackableModel& model) {
  std::set<std::string> rounded;  // modules of experts, some of which are
  for (const model_info::PlannedLayer& planned : model.plan) {
    if (planned.layer.expert < 0 || !planned.grid.quantized) continue;
    rounded.insert(ExpertsModule(planned.layer));
  }
  const bool begin_alike = !model.config.prefix.empty() && !model.config.is_part;
  std::set<std::string> whole;  // modules of experts that are named
  std::vector<std::string> names = OuterLinears(model.config);
  for (const model_info::PlannedLayer& planned : model.plan) {
    if (planned.grid.quantized) continue;
    const std::string experts = planned.layer.expert < 0 ? "" : ExpertsModule(planned.layer);
    if (!experts.empty() && !rounded.contains(experts)) {
      if (whole.insert(experts).second) names.push_back(experts);
      if (begin_alike) continue;
    }
    names.push_back(planned.layer.name);
  }
  return names;
}

}  // namespace

std::vector<std::pair<std::string, torch::Tensor>> AwqTensors(const std::string& layer,
                                                              const quant::Quantized& quantized) {
  return {{layer + ".qweight", PackInterleaved(quantized.codes.to(torch::kCPU).t())},
          {layer + ".qzeros", PackInterleaved(quantized.zeros.to(torch::kCPU).t())},
          {layer + ".scales", quantized.scales.to(torch::kCPU).t()}};
}

nlohmann::ordered_json AwqConfig(const PackableModel& model) {
  const auto quantized = std::find_if(model.plan.begin(), model.plan.end(),
                                      [](const auto& planned) { return planned.grid.quantized; });
  // Older loaders look for these anywhere in a module's name, newer ones at its ends.
  nlohmann::ordered_json floats = nlohmann::ordered_json::array();
  for (const std::string& name : FloatModules(model)) {
    floats.push_back(NameInPart(model.config, name));
  }
  for (const std::string& part : model.other_parts) {
    floats.push_back(part);
    floats.push_back("model." + part);
  }
  return {{"quant_method", "awq"}, {"bits", 4},         {"group_size", quantized->grid.group_size},
          {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", floats}};
}

absl::StatusOr<std::map<std::string, std::string>> WriteAwqDirectory(
    const PackableModel& model, const std::filesystem::path& directory) {
  return WriteCheckpointDirectory(model, AwqConfig(model), AwqTensors, directory);
}

}  // namespace teq::pack
