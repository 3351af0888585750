#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/recipe.pb.h"
#include "teq/v1/report.pb.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/scale_groups.h"
#include "worker/engine/text/windows.h"

namespace teq::transform {

/// What a training needs.
struct TrainingTask {
  const model::Decoder& decoder;
  const std::vector<ScaleGroup>& groups;
  const std::vector<BlockGrids>& grids;
  const text::Windows& windows;
  const teq::v1::Teq& settings;  // with its defaults
  torch::ScalarType stored;      // the type of published floats
  std::int64_t seed = 1;
};

/// Called after every step, from the training's thread.
using StepCallback = std::function<void(const teq::v1::MetricSample&)>;

struct TrainedScales {
  std::vector<torch::Tensor> log_scales;  // by group
  teq::v1::Training report;               // without trainable_fraction
};

/// Trains the log scales from `start` by Adam with warm-up and linear decay, and returns the
/// iterate with the least loss on the windows held back from training. Plain rounding and the start
/// are among the iterates compared.
///
/// ABORTED, LOSS_NOT_FINITE: names the step. CANCELLED, CANCELLED.
[[nodiscard]] absl::StatusOr<TrainedScales> TrainScales(const TrainingTask& task,
                                                        std::vector<torch::Tensor> start,
                                                        const StepCallback& on_step,
                                                        const std::atomic<bool>& cancelled);

/// The learning rate of a step from 1: a linear rise over the first twentieth of the steps, then a
/// linear fall towards 0 after the last.
[[nodiscard]] double LearningRate(double peak, int step, int steps);

}  // namespace teq::transform
