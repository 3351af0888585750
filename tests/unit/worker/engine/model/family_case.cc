#include "tests/unit/worker/engine/model/family_case.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "torch/utils.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace teq {
namespace {

using torch::Tensor;

std::uint64_t Hash(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// mean + amplitude * k / 512, k from -512 to 511 by splitmix64 of the name's hash: exact in
/// float16. The same formula stands in tests/peers/families.
Tensor FormulaTensor(const std::string& name, const nlohmann::ordered_json& entry) {
  const auto shape = entry.at("shape").get<std::vector<std::int64_t>>();
  Tensor tensor = torch::empty(shape, torch::kFloat64);
  const auto mean = entry.at("mean").get<double>();
  const auto amplitude = entry.at("amplitude").get<double>();
  const std::uint64_t hash = Hash(name);
  double* values = tensor.data_ptr<double>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    std::uint64_t z = hash + (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    values[i] = mean + amplitude * (static_cast<double>(z >> 54) - 512) / 512;
  }
  return tensor.to(torch::kFloat16);
}

}  // namespace

std::vector<std::string> FamilyCases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(TEQ_FIXTURES "/families")) {
    names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

FamilyCase ReadFamilyCase(const std::string& name) {
  const auto json = nlohmann::ordered_json::parse(
      std::ifstream(std::string(TEQ_FIXTURES "/families/") + name + ".json"));
  FamilyCase family{.config = json.at("config")};
  for (const auto& [tensor, entry] : json.at("tensors").items()) {
    family.tensors.emplace_back(tensor, FormulaTensor(tensor, entry));
  }
  family.ids = torch::tensor(json.at("input_ids").get<std::vector<std::int64_t>>(), torch::kInt64)
                   .unsqueeze(0);
  std::vector<Tensor> rows;
  for (const auto& row : json.at("logits")) {
    family.positions.push_back(row.at("position").get<std::int64_t>());
    rows.push_back(torch::tensor(row.at("values").get<std::vector<float>>()));
  }
  family.logits = torch::stack(rows);
  return family;
}

void WriteCheckpoint(const FamilyCase& family, const std::string& directory) {
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/config.json") << family.config.dump(1);
  const absl::Status written =
      checkpoint::WriteSafetensors(directory + "/model.safetensors", family.tensors);
  TORCH_CHECK(written.ok(), written.ToString());
}

}  // namespace teq
