#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "teq/v1/recipe.pb.h"
#include "teq/v1/report.pb.h"
#include "torch/types.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/device.h"
#include "worker/engine/model/scratch.h"
#include "worker/engine/teq/fit.h"
#include "worker/engine/teq/parameters.h"
#include "worker/engine/teq/scale_groups.h"
#include "worker/engine/text/windows.h"

namespace teq::transform {

/// Peak learning rates; what has 0 is not trained.
struct LearningRates {
  double scales = 0;  // of their logarithms
  double clipping = 0;
  double step_sizes = 0;  // of their factors
  double rounding = 0;
  teq::v1::Optimizer rounding_optimizer = teq::v1::OPTIMIZER_ADAM;
};

/// What a training needs.
struct TrainingTask {
  const model::Decoder& decoder;
  const std::vector<ScaleGroup>& groups;
  const std::vector<BlockGrids>& grids;
  const text::Windows& windows;
  const teq::v1::Schedule& schedule;  // with its defaults
  model::Scratch& scratch;            // for what is kept of all blocks and all tokens
  model::Scratch& working;            // for what is kept of one block while it is trained
  LearningRates rates;
  torch::ScalarType stored;  // the type of published floats
  std::int64_t seed = 1;
  // Of the matrix products of a step. The float model, held-back losses, scales and optimizer take
  // float32.
  torch::ScalarType products = torch::kFloat32;
  // Of the next token in the distribution that KL is measured from; the rest is the float model's.
  double next_token_share = 0;
  // Of the tokens of all steps of KL over all blocks, those that are drawn again from the float
  // model's predictions: half of a step's in as many steps as that takes, more where it is more.
  double redrawn_share = 0;
  int rounds = 1;  // see Fit
  // How far w / scale + offset stands from a change of its code when a round begins, in steps of
  // the grid; by block not the first, which begins where plain rounding is.
  double rounding_margin = 0;
  // Of a step of all blocks together. Without it every block runs twice, and memory is one block's.
  bool stores_graph = true;
  model::Device device;
};

/// Trains all blocks together by LM_LOSS or KL for `steps` steps, from where `parameters` stand,
/// and leaves them at the best iterate; see Fit. Quantized layers get what their training needs and
/// have not yet: clip and step factors of 1, offsets of 0. Fills the report but for `blocks` and
/// `trainable_fraction`.
[[nodiscard]] absl::Status TrainEndToEnd(const TrainingTask& task, int steps,
                                         teq::v1::Objective objective, Parameters& parameters,
                                         teq::v1::Training& report, const StepCallback& on_step,
                                         const std::atomic<bool>& cancelled);

/// Trains block after block, each by the squared error of its output against the float block's on
/// the float model's states, and adds to the report's `blocks`. A block reads what
/// schedule.block_inputs says. Samples count the steps of all blocks.
[[nodiscard]] absl::Status TrainBlocks(const TrainingTask& task, Parameters& parameters,
                                       teq::v1::Training& report, const StepCallback& on_step,
                                       const std::atomic<bool>& cancelled);

}  // namespace teq::transform
