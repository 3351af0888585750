#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/recipe.pb.h"
#include "teq/v1/report.pb.h"
#include "torch/types.h"
#include "worker/engine/model/device.h"
#include "worker/engine/model/scratch.h"

namespace teq::transform {

/// A tensor that a training moves, in place.
struct Trainable {
  torch::Tensor value;       // at its start
  double learning_rate = 0;  // the peak; 0: it stays, and only plain rounding differs from it
  double neutral = 0;        // what it is in plain rounding
  double low = 0;            // every step ends within [low, high]
  double high = 0;
  teq::v1::Optimizer optimizer = teq::v1::OPTIMIZER_ADAM;
};

/// A range of trainables, [begin, end).
struct TrainableRange {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// Told when the gradients of a range are there; moves it, and drops the gradients.
using GradientsReady = std::function<void(TrainableRange range)>;

/// What a training minimises, over windows that are known by their index.
struct FitTask {
  int steps = 0;
  int rounds = 1;  // the steps are shared out evenly
  std::int64_t batch_size = 1;
  std::int64_t window_tokens = 0;     // for the speed that is told
  std::vector<std::int64_t> windows;  // to train on
  std::uint64_t seed = 0;
  /// Computes the loss on some windows and, if that is finite, the trainables' gradients. Each
  /// trainable is in one of the ranges that `ready` is told, in the end.
  std::function<absl::StatusOr<double>(const torch::Tensor& indices, const GradientsReady& ready)>
      step;
  std::function<absl::StatusOr<double>()> held_back_loss;
  /// Called before the first step of a round, from 0; may move the trainables, but not the loss. Or
  /// empty.
  std::function<absl::Status(int round)> begin_round;
  model::Device device;  // that the trainables are on
};

/// The course of a training; losses are on the held-back windows, but for the curve's.
struct FitResult {
  double round_to_nearest_loss = 0;
  double initial_loss = 0;
  double final_loss = 0;
  int best_step = 0;                      // 0: the start; -1: plain rounding
  std::vector<teq::v1::LossPoint> curve;  // of long trainings not every step
};

/// Called after every step, also the one whose loss is not finite, from the training's thread.
using StepCallback = std::function<void(const teq::v1::MetricSample&)>;

/// Moves the trainables by Adam (or by their gradients' signs) with warm-up and linear decay, and
/// leaves them at the iterate with the least held-back loss. Plain rounding and the start are among
/// the iterates compared. Every round starts at the best iterate so far, with a learning rate and
/// moments of its own.
///
/// What it keeps beside the trainables, four values for each of theirs, lies in `scratch`.
///
/// ABORTED, LOSS_NOT_FINITE: names the step. CANCELLED, CANCELLED. Errors of the task, of
/// Scratch::Zeros and of model::EndStep.
[[nodiscard]] absl::StatusOr<FitResult> Fit(const std::vector<Trainable>& trainables,
                                            const FitTask& task, model::Scratch& scratch,
                                            const StepCallback& on_step,
                                            const std::atomic<bool>& cancelled);

/// The learning rate of a round's step from 1, for a peak of 1: a linear rise over the first
/// twentieth of its steps, then a linear fall towards 0 after the last.
[[nodiscard]] double LearningRateFactor(int step, int steps);

/// How many steps back the average of a round's iterates goes, that Fit compares: its newest
/// iterate weighs 1 / AverageSteps. A twentieth of the round's steps, but at least 12, which short
/// trainings need too, unless that is more than an eighth of them: the start would weigh in.
[[nodiscard]] double AverageSteps(int steps);

/// 0 .. count - 1 in an order that depends on the seed alone, not on the library.
[[nodiscard]] std::vector<std::int64_t> Shuffled(std::int64_t count, std::uint64_t seed);

}  // namespace teq::transform
