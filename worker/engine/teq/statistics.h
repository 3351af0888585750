#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "torch/types.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/text/windows.h"

namespace teq::transform {

/// What a linear layer reads on the calibration text. An expert to which no token was routed has
/// zeros.
struct InputStatistics {
  torch::Tensor gram;      // X^T X, float32 [in, in]
  torch::Tensor mean_abs;  // mean |x| by channel, [in]
  std::int64_t tokens = 0;
};

/// By model_info's input number; layers that read the same tensor share it.
using BlockStatistics = std::vector<InputStatistics>;

/// Runs the float model over the windows block by block, and hands each block's statistics to
/// `visit` before the next block runs: only one block's matrices and one hidden state per token are
/// held. Stops at the first status that is not OK.
[[nodiscard]] absl::Status VisitBlockStatistics(
    const model::Decoder& decoder, const text::Windows& windows, std::int64_t batch_size,
    const std::function<absl::Status(std::size_t block, const BlockStatistics&)>& visit);

/// What the layers at one step of a block read (model_info::StepOf) when batches of states run
/// through it; the inputs of other steps have zeros.
[[nodiscard]] BlockStatistics GatherStep(const model::BlockRunner& runner,
                                         const model::Block& block,
                                         const std::vector<torch::Tensor>& states, int step);

/// Mean squared error of a layer's output when its weights are off by `error` [out, in]:
/// trace(E X^T X E^T) / (tokens * out). 0 where it read nothing.
[[nodiscard]] double OutputError(const InputStatistics& input, const torch::Tensor& error);

}  // namespace teq::transform
