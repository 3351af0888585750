#include <algorithm>

#include "proto/spec/error.h"
#include "worker/engine/model/host_memory.h"
#include "worker/engine/model/window_states.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/teq/train.h"
#include "worker/engine/teq/training_parts.h"

namespace teq::transform {
namespace {

using torch::Tensor;

/// What a block reads, and what the float block makes of the float model's states.
struct BlockStates {
  const model::WindowStates& inputs;
  const model::WindowStates& targets;
};

double MeanSquare(const model::WindowStates& states) {
  double sum = 0;
  double count = 0;
  states.ForEach([&](const Tensor& batch) {
    sum += batch.square().sum(torch::kFloat64).item<double>();
    count += static_cast<double>(batch.numel());
  });
  return sum / count;
}

/// Trains one block; nothing where it has nothing to train.
absl::Status TrainBlock(const TrainingTask& task, const model::Block& block, const Split& split,
                        const model::BlockRunner& runner, const BlockStates& states,
                        Parameters& parameters, teq::v1::Training& report,
                        const StepCallback& on_step, const std::atomic<bool>& cancelled) {
  const auto number = static_cast<std::size_t>(block.number);
  const std::vector<Trainable> trainables = BlockTrainables(task, parameters, number);
  if (std::ranges::none_of(trainables, [](const auto& each) { return each.learning_rate > 0; })) {
    return absl::OkStatus();
  }
  const double mean_square = MeanSquare(states.targets);
  const auto loss = [&](const model::Block& student, const Tensor& indices) {
    const Tensor output = runner.Run(student, states.inputs.Select(indices));
    return (output - states.targets.Select(indices)).square().mean() / mean_square;
  };
  const FitTask fit{
      .steps = task.schedule.steps(),
      .rounds = task.rounds,
      .batch_size = task.schedule.batch_size(),
      .window_tokens = task.windows.length,
      .windows = split.training,
      .seed = static_cast<std::uint64_t>(task.seed) + number,
      .step = [&](const Tensor& indices, const GradientsReady& ready) -> absl::StatusOr<double> {
        const Tensor value = loss(StudentBlock(task, parameters, block, task.products), indices);
        return Descend(value, {0, trainables.size()}, ready);
      },
      .held_back_loss = [&]() -> absl::StatusOr<double> {
        const torch::NoGradGuard no_gradient;
        const model::Block student = StudentBlock(task, parameters, block, kExact);
        double sum = 0;
        for (const Tensor& batch : split.held_back.split(task.schedule.batch_size())) {
          sum += loss(student, batch).item<double>() * static_cast<double>(batch.numel());
        }
        return sum / static_cast<double>(split.held_back.numel());
      },
      .begin_round =
          [&](int round) {
            // The offsets of the first are where plain rounding has them.
            if (round > 0 && task.rounding_margin > 0) KeepMargin(task, block, parameters);
            return absl::OkStatus();
          },
      .device = task.device};
  TEQ_ASSIGN_OR_RETURN(const FitResult result,
                       Fit(trainables, fit, task.working, on_step, cancelled));
  teq::v1::BlockTraining& entry = *report.add_blocks();
  entry.set_block(static_cast<int>(number));
  entry.set_round_to_nearest_loss(result.round_to_nearest_loss);
  entry.set_initial_loss(result.initial_loss);
  entry.set_final_loss(result.final_loss);
  entry.set_best_step(result.best_step);
  entry.mutable_loss_curve()->Add(result.curve.begin(), result.curve.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status TrainBlocks(const TrainingTask& task, Parameters& parameters,
                         teq::v1::Training& report, const StepCallback& on_step,
                         const std::atomic<bool>& cancelled) {
  const int steps = task.schedule.steps();
  report.set_steps(steps);
  report.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  const Split split = SplitWindows(task);
  const std::int64_t batch_size = task.schedule.batch_size();
  const bool reads_quantized = task.schedule.block_inputs() != teq::v1::BLOCK_INPUTS_FLOAT;
  const model::BlockRunner runner(task.decoder, task.windows.length);
  const auto blocks = static_cast<int>(task.decoder.size());
  const auto advance = [&](const model::Block& block, model::WindowStates& states) {
    const torch::NoGradGuard no_gradient;
    states.Advance([&](const Tensor& batch) { return runner.Run(block, batch); });
  };

  TEQ_ASSIGN_OR_RETURN(
      model::WindowStates float_states,
      model::WindowStates::Embed(task.decoder, runner, model::WindowTensor(task.windows),
                                 batch_size, task.scratch));
  TEQ_ASSIGN_OR_RETURN(model::WindowStates inputs, float_states.Copy(task.scratch));
  for (std::size_t number = 0; number < task.decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, task.decoder.ReadBlock(number));
    BlockAdjustments& adjustments = parameters.adjustments[number];
    adjustments = OnDevice(adjustments, task.device.torch);
    TEQ_RETURN_IF_ERROR(AddTrainables(task, block, adjustments));
    advance(block, float_states);
    const auto on_block_step = [&](teq::v1::MetricSample sample) {
      sample.set_step(sample.step() + static_cast<int>(number) * steps);
      sample.set_total_steps(blocks * steps);
      on_step(sample);
    };
    TEQ_RETURN_IF_ERROR(TrainBlock(task, block, split, runner,
                                   {.inputs = inputs, .targets = float_states}, parameters, report,
                                   on_block_step, cancelled));
    if (reads_quantized) {
      const torch::NoGradGuard no_gradient;
      advance(StudentBlock(task, parameters, block, kExact), inputs);
    } else {
      inputs.Assign(float_states);
    }
    TEQ_RETURN_IF_ERROR(KeepOnHost(adjustments, task.scratch));
    model::GiveBackFreedMemory();
  }
  CountTrainables(task, parameters, report);
  return absl::OkStatus();
}

}  // namespace teq::transform
