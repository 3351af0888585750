#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "torch/types.h"

namespace teq {

/// A model of tests/fixtures/families: a config.json, weights by a formula, and the logits that
/// tests/peers/families computed from them in float64.
struct FamilyCase {
  nlohmann::ordered_json config;
  std::vector<std::pair<std::string, torch::Tensor>> tensors;  // float16, as a checkpoint has them
  torch::Tensor ids;                                           // int64 [1, tokens]
  std::vector<std::int64_t> positions;                         // at which logits were recorded
  torch::Tensor logits;                                        // [positions, vocabulary]
};

/// The names of all cases, sorted.
[[nodiscard]] std::vector<std::string> FamilyCases();

[[nodiscard]] FamilyCase ReadFamilyCase(const std::string& name);

/// The case's checkpoint as a directory of config.json and model.safetensors.
void WriteCheckpoint(const FamilyCase& family, const std::string& directory);

}  // namespace teq
