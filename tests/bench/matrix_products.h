#pragma once

#include <cstdint>

#include "client/model_info/model_config.h"
#include "tests/bench/stopwatch.h"
#include "torch/types.h"

namespace teq::bench {

/// What the matrix products of one training step over `tokens` tokens take alone: every linear
/// layer of the blocks forward, and backward to its input and to its weight; the head forward and
/// backward to its input, since it is frozen. Each shape is measured, several times, as LibTorch
/// multiplies it, and counted as often as it occurs. Attention's products are not among them.
[[nodiscard]] Duration StepProducts(const model_info::ModelConfig& config, std::int64_t tokens,
                                    torch::ScalarType type);

/// Those of an evaluation alone: all forward.
[[nodiscard]] Duration ForwardProducts(const model_info::ModelConfig& config, std::int64_t tokens,
                                       torch::ScalarType type);

}  // namespace teq::bench
