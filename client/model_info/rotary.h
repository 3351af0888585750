#pragma once

#include <cstdint>

#include "client/model_info/config_reader.h"
#include "client/model_info/model_config.h"

namespace teq::model_info {

/// What a family takes where config.json is silent.
struct RotaryDefaults {
  double theta = 10000;
  double fraction = 1;  // of a head's dimensions that turn
  Key theta_key = "rope_theta";
  Key fraction_key = "partial_rotary_factor";
  std::int64_t original_positions = 0;  // before longrope; 0: as many as config.json names
  bool yarn_is_longrope = false;        // what the family's early files call longrope
};

/// Rotary positions from rope_theta, rope_scaling and their newer home, rope_parameters.
/// `max_positions`: config.json's max_position_embeddings.
[[nodiscard]] Rotary ReadRotary(ConfigReader& config, std::int64_t head_size,
                                std::int64_t max_positions, const RotaryDefaults& defaults = {});

/// The positions that a model can be asked for: more than max_position_embeddings where dynamic
/// scaling stretches them.
[[nodiscard]] std::int64_t UsablePositions(const Rotary& rotary, std::int64_t max_positions);

}  // namespace teq::model_info
