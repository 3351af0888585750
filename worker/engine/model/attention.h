#pragma once

#include <cstdint>

#include "client/model_info/model_config.h"
#include "torch/types.h"
#include "worker/engine/model/positions.h"

namespace teq::model {

/// Queries, keys and values by head, before positions turn them.
struct Heads {
  torch::Tensor query;  // [batch, heads, sequence, head_size]
  torch::Tensor key;    // [batch, kv_heads, sequence, head_size]
  torch::Tensor value;
};

/// What attention depends on beside its heads.
struct AttentionSetting {
  double scale = 1;                            // of the scores
  double softcap = 0;                          // of the scores; 0: none
  std::int64_t window = 0;                     // positions that one sees, itself included; 0: all
  const model_info::Rotary* rotary = nullptr;  // null: queries and keys are not turned
  const RotaryTable* table = nullptr;          // of the turns
  torch::Tensor mask;                          // AttentionMask of the window; not for one pass
  torch::Tensor alibi;                         // AlibiBias, or undefined
};

/// Whether attention on `device` is one pass over blocks of queries, in float32, which computes
/// nothing a query cannot see and reads no mask.
[[nodiscard]] bool AttendsInOnePass(const torch::Device& device, double softcap);

/// softmax(scale * q k^T + mask + alibi) v: [batch, sequence, heads * head_size]. Differentiable in
/// the heads.
///
/// Where it is one pass it keeps for the way back one number for each query; elsewhere it is
/// AttendByOperators.
[[nodiscard]] torch::Tensor Attend(const Heads& heads, const AttentionSetting& setting);

/// The same by LibTorch's operators on any device.
[[nodiscard]] torch::Tensor AttendByOperators(const Heads& heads, const AttentionSetting& setting);

}  // namespace teq::model
