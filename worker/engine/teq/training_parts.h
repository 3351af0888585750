#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "teq/v1/report.pb.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/fit.h"
#include "worker/engine/teq/parameters.h"
#include "worker/engine/teq/train.h"

// What training by block and of all blocks together have in common.
namespace teq::transform {

// Products of what iterates are compared by, and of what the next block reads.
inline constexpr torch::ScalarType kExact = torch::kFloat32;

/// Windows to train on, and windows that are held back: int64 [count].
struct Split {
  std::vector<std::int64_t> training;
  torch::Tensor held_back;
};
[[nodiscard]] Split SplitWindows(const TrainingTask& task);

/// Gives a block's quantized layers what they need and have not yet: clip and step factors of 1,
/// offsets of 0. Errors as Scratch::Zeros.
[[nodiscard]] absl::Status AddTrainables(const TrainingTask& task, const model::Block& block,
                                         BlockAdjustments& adjustments);

/// A block's part of the parameters.
[[nodiscard]] std::vector<Trainable> BlockTrainables(const TrainingTask& task,
                                                     const Parameters& parameters,
                                                     std::size_t block);

/// Enters how many parameters are trained; what an earlier training entered of others stays.
void CountTrainables(const TrainingTask& task, const Parameters& parameters,
                     teq::v1::Training& report);

/// A float block as it is rounded. Differentiable in the parameters.
[[nodiscard]] model::Block StudentBlock(const TrainingTask& task, const Parameters& parameters,
                                        const model::Block& block, torch::ScalarType products);

/// Moves a block's offsets away from where codes change by the task's rounding_margin, so that only
/// gradients that agree over many steps change one.
void KeepMargin(const TrainingTask& task, const model::Block& block, const Parameters& parameters);

/// The way back from a loss, if that is finite: the gradients of `range` are there at once, none
/// where nothing that is trained has a part in it. Returns the loss.
double Descend(const torch::Tensor& loss, TrainableRange range, const GradientsReady& ready);

}  // namespace teq::transform
