#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "torch/types.h"
#include "worker/engine/quant/grid.h"

namespace teq::pack {

/// A model that is ready to be written in any format.
struct PackableModel {
  model_info::ModelConfig config;
  std::filesystem::path source;  // for tokenizer and generation files
  std::vector<model_info::PlannedLayer> plan;
  std::map<std::string, quant::Quantized> layers;  // by module name
  std::vector<std::pair<std::string, torch::Tensor>>
      floats;  // all other tensors, in their published type
  // The model's other parts than its decoder (model_info::OtherParts), and their tensors as stored.
  std::vector<std::string> other_parts;
  std::vector<std::pair<std::string, torch::Tensor>> other_tensors;
  // Weights are divided into files of about this size, by default Hugging Face's own.
  std::uint64_t shard_bytes = 5'000'000'000;
};

}  // namespace teq::pack
