#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/text/windows.h"

namespace teq::transform {

/// What a linear layer reads on the calibration text.
struct InputStatistics {
  torch::Tensor gram;      // X^T X, float32 [in, in]
  torch::Tensor mean_abs;  // mean |x| by channel, [in]
  std::int64_t tokens = 0;
};

/// By Role; roles that read the same tensor share it.
using BlockStatistics = std::array<InputStatistics, model_info::kRoles>;

/// Runs the float model over the windows block by block, and hands each block's statistics to
/// `visit` before the next block runs: only one block's matrices and one hidden state per token are
/// held. Stops at the first status that is not OK.
[[nodiscard]] absl::Status VisitBlockStatistics(
    const model::Decoder& decoder, const text::Windows& windows, std::int64_t batch_size,
    const std::function<absl::Status(std::size_t block, const BlockStatistics&)>& visit);

/// The role that stands for all roles which read the same tensor.
[[nodiscard]] std::size_t SharedInput(model_info::Role role);

/// What one layer of a block reads when batches of states run through it.
[[nodiscard]] InputStatistics GatherInput(const model::BlockRunner& runner,
                                          const model::Block& block,
                                          const std::vector<torch::Tensor>& states,
                                          model_info::Role role);

/// Mean squared error of a layer's output when its weights are off by `error` [out, in]:
/// trace(E X^T X E^T) / (tokens * out).
[[nodiscard]] double OutputError(const InputStatistics& input, const torch::Tensor& error);

}  // namespace teq::transform
