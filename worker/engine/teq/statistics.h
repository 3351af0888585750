#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "torch/types.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/scratch.h"
#include "worker/engine/model/window_states.h"
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

/// Sees a block of the float model, and what its layers read.
using StatisticsVisitor =
    std::function<absl::Status(const model::Block& block, const BlockStatistics& statistics)>;

/// Runs the float model over the windows block by block, and shows each block to `visit` before the
/// next one runs: only one block, its matrices and one hidden state per token are held, the states
/// in `scratch`. Stops at the first status that is not OK. Errors as Decoder::ReadBlock and
/// Scratch::Zeros.
[[nodiscard]] absl::Status VisitBlockStatistics(const model::Decoder& decoder,
                                                const text::Windows& windows,
                                                std::int64_t batch_size, model::Scratch& scratch,
                                                const StatisticsVisitor& visit);

/// What the layers at one step of a block read (model_info::StepOf) when all states run through it;
/// the inputs of other steps have zeros.
[[nodiscard]] BlockStatistics GatherStep(const model::BlockRunner& runner,
                                         const model::Block& block,
                                         const model::WindowStates& states, int step);

/// Mean squared error of a layer's output when its weights are off by `error` [out, in]:
/// trace(E X^T X E^T) / (tokens * out). 0 where it read nothing.
[[nodiscard]] double OutputError(const InputStatistics& input, const torch::Tensor& error);

}  // namespace teq::transform
