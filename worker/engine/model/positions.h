#pragma once

#include <cstdint>
#include <vector>

#include "client/model_info/model_config.h"
#include "torch/types.h"

namespace teq::model {

/// Cosines and sines of every position's rotary angles, [length, dimensions / 2].
struct RotaryTable {
  torch::Tensor cosine;
  torch::Tensor sine;
};
[[nodiscard]] RotaryTable MakeRotaryTable(const model_info::Rotary& rotary, std::int64_t length,
                                          const torch::Device& device);

/// Turns the first dimensions of every head. `heads`: [batch, heads, length, head_size].
[[nodiscard]] torch::Tensor Rotate(const torch::Tensor& heads, const model_info::Rotary& rotary,
                                   const RotaryTable& table);

/// ALiBi's slope of every head (arXiv 2108.12409), for a number of heads that may be no
/// power of two.
[[nodiscard]] std::vector<double> AlibiSlopes(std::int64_t heads, double alibi_max);

/// 0 where position i sees position j, minus infinity elsewhere, [length, length]. `window`: tokens
/// that a position sees, itself included; 0: all before it.
[[nodiscard]] torch::Tensor AttentionMask(std::int64_t window, std::int64_t length,
                                          const torch::Device& device);

/// What ALiBi adds to the scores, [kv_heads, heads / kv_heads, 1, length].
[[nodiscard]] torch::Tensor AlibiBias(const model_info::ModelConfig& config, std::int64_t length,
                                      const torch::Device& device);

}  // namespace teq::model
