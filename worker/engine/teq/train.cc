#include "worker/engine/teq/train.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "proto/spec/error.h"
#include "worker/engine/model/attention.h"
#include "worker/engine/model/head_loss.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/teq/fold.h"

namespace teq::transform {
namespace {

using torch::Tensor;

// Clip factors stay in this range: above 1 the grid reaches beyond the weights, which may still fit
// them better.
constexpr double kSmallestFactor = 0.1;
constexpr double kLargestFactor = 1.25;

// Products of what iterates are compared by, and of what the next block reads.
constexpr torch::ScalarType kExact = torch::kFloat32;

/// Indices of windows to train on, and of those held back.
struct Split {
  std::vector<std::int64_t> training;
  Tensor held_back;
};

Split SplitWindows(const TrainingTask& task) {
  const std::int64_t count = task.windows.count;
  const auto held = std::clamp<std::int64_t>(
      std::llround(task.schedule.held_back_fraction() * static_cast<double>(count)), 1, count - 1);
  std::vector<std::int64_t> order = Shuffled(count, static_cast<std::uint64_t>(task.seed));
  const auto middle = order.begin() + held;
  return {{middle, order.end()},
          torch::tensor(std::vector<std::int64_t>(order.begin(), middle), torch::kInt64)};
}

void AddScales(const TrainingTask& task, const Parameters& parameters, std::size_t block,
               std::vector<Trainable>& trainables) {
  for (std::size_t i = 0; i < task.groups.size(); ++i) {
    if (task.groups[i].block != block) continue;
    const double far = std::numeric_limits<float>::max();
    trainables.push_back({.value = parameters.log_scales[i],
                          .learning_rate = task.rates.scales,
                          .neutral = 0,
                          .low = -far,
                          .high = far});
  }
}

void AddAdjustments(const TrainingTask& task, const Parameters& parameters, std::size_t block,
                    std::vector<Trainable>& trainables) {
  for (const quant::Adjustment& adjustment : parameters.adjustments[block]) {
    for (const Tensor& factor : {adjustment.clip.low, adjustment.clip.high}) {
      if (!factor.defined()) continue;
      trainables.push_back({.value = factor,
                            .learning_rate = task.rates.clipping,
                            .neutral = 1,
                            .low = kSmallestFactor,
                            .high = kLargestFactor});
    }
    if (!adjustment.offset.defined()) continue;
    trainables.push_back({.value = adjustment.offset,
                          .learning_rate = task.rates.rounding,
                          .neutral = 0,
                          .low = -0.5,
                          .high = 0.5,
                          .optimizer = task.rates.rounding_optimizer});
  }
}

std::vector<Trainable> BlockTrainables(const TrainingTask& task, const Parameters& parameters,
                                       std::size_t block) {
  std::vector<Trainable> trainables;
  AddScales(task, parameters, block, trainables);
  AddAdjustments(task, parameters, block, trainables);
  return trainables;
}

void Count(const TrainingTask& task, const Parameters& parameters, teq::v1::Training& report) {
  std::int64_t scales = 0;
  std::int64_t clipping = 0;
  std::int64_t rounding = 0;
  const auto size = [](const Tensor& tensor) { return tensor.defined() ? tensor.numel() : 0; };
  for (const Tensor& tensor : parameters.log_scales) scales += tensor.numel();
  for (const BlockAdjustments& block : parameters.adjustments) {
    for (const quant::Adjustment& layer : block) {
      clipping += size(layer.clip.low) + size(layer.clip.high);
      rounding += size(layer.offset);
    }
  }
  teq::v1::TrainableParameters& counts = *report.mutable_trainable_parameters();
  counts.set_scales(task.rates.scales > 0 ? scales : 0);
  counts.set_clipping(task.rates.clipping > 0 ? clipping : 0);
  counts.set_rounding(task.rates.rounding > 0 ? rounding : 0);
}

/// All windows through a block, a batch at a time, without gradients: [count, length, hidden].
Tensor RunAll(const model::BlockRunner& runner, const model::Block& block, const Tensor& states,
              std::int64_t batch_size) {
  const torch::NoGradGuard no_gradient;
  std::vector<Tensor> outputs;
  for (const Tensor& batch : states.split(batch_size)) outputs.push_back(runner.Run(block, batch));
  return torch::cat(outputs);
}

/// The float model's distributions over all windows.
model::HeadReference Teacher(const model::Decoder& decoder, const Tensor& ids,
                             std::int64_t batch_size) {
  const torch::NoGradGuard no_gradient;
  std::vector<Tensor> states;
  std::vector<Tensor> mean_rows;
  std::vector<Tensor> log_sums;
  for (const Tensor& batch : ids.split(batch_size)) {
    const model::HeadReference part =
        model::MakeHeadReference(decoder, model::HiddenStates(decoder, batch));
    states.push_back(part.states);
    if (!part.mean_row.defined()) continue;
    mean_rows.push_back(part.mean_row);
    log_sums.push_back(part.log_sum);
  }
  const auto joined = [](const std::vector<Tensor>& parts) {
    return parts.empty() ? Tensor() : torch::cat(parts);
  };
  return {joined(states), joined(mean_rows), joined(log_sums)};
}

/// The objective on some windows, mean over their predicted tokens. `teacher`: of KL.
Tensor EndToEndLoss(const model::Decoder& student, const Tensor& ids,
                    const std::optional<model::HeadReference>& teacher) {
  const Tensor states = model::HiddenStates(student, ids);
  if (teacher) return model::HeadDivergence(student, states, *teacher);
  return model::HeadCrossEntropy(student, states.slice(1, 0, -1), ids.slice(1, 1).flatten());
}

/// Routers and gates of one output choose and weigh, and stay exact.
void SetProducts(model::Block& block, torch::ScalarType products) {
  for (model::Linear& linear : block.linears) {
    if (linear.layer.quantizable) linear.products = products;
  }
}

model::Decoder Student(const TrainingTask& task, const Parameters& parameters,
                       torch::ScalarType products) {
  model::Decoder student = FakeQuantizeDecoder(task.decoder, task.groups, parameters, task.grids,
                                               task.stored, task.schedule.gradient());
  for (model::Block& block : student.blocks) SetProducts(block, products);
  student.head_products = products;
  return student;
}

model::Block StudentBlock(const TrainingTask& task, const Parameters& parameters, std::size_t block,
                          torch::ScalarType products) {
  model::Block student =
      FakeQuantizeBlock(task.decoder.blocks[block],
                        ResolveScales(task.decoder.blocks[block], task.decoder.config.norm,
                                      task.groups, parameters.log_scales, task.stored),
                        task.grids[block], parameters.adjustments[block], task.schedule.gradient());
  SetProducts(student, products);
  return student;
}

/// Mean over held-back windows of a loss that is a mean over its windows.
template <typename Loss>
double MeanOverWindows(const Tensor& indices, std::int64_t batch_size, const Loss& loss) {
  double sum = 0;
  for (const Tensor& batch : indices.split(batch_size)) {
    sum += loss(batch).template item<double>() * static_cast<double>(batch.numel());
  }
  return sum / static_cast<double>(indices.numel());
}

/// What a block reads, and what the float block makes of the float model's states: for all windows,
/// [count, length, hidden].
struct BlockStates {
  Tensor inputs;
  Tensor targets;
};

/// Trains one block; nothing where it has nothing to train.
absl::Status TrainBlock(const TrainingTask& task, std::size_t block, const Split& split,
                        const model::BlockRunner& runner, const BlockStates& states,
                        Parameters& parameters, teq::v1::Training& report,
                        const StepCallback& on_step, const std::atomic<bool>& cancelled) {
  const std::vector<Trainable> trainables = BlockTrainables(task, parameters, block);
  if (std::ranges::none_of(trainables, [](const auto& each) { return each.learning_rate > 0; })) {
    return absl::OkStatus();
  }
  const double mean_square = states.targets.square().mean().item<double>();
  const auto loss = [&](const model::Block& student, const Tensor& indices) {
    const Tensor chosen = indices.to(states.inputs.device());
    const Tensor output = runner.Run(student, states.inputs.index_select(0, chosen));
    return (output - states.targets.index_select(0, chosen)).square().mean() / mean_square;
  };
  const FitTask fit{
      .steps = task.schedule.steps(),
      .batch_size = task.schedule.batch_size(),
      .window_tokens = task.windows.length,
      .windows = split.training,
      .seed = static_cast<std::uint64_t>(task.seed) + block,
      .loss =
          [&](const Tensor& indices) {
            return loss(StudentBlock(task, parameters, block, task.products), indices);
          },
      .held_back_loss =
          [&] {
            const torch::NoGradGuard no_gradient;
            const model::Block student = StudentBlock(task, parameters, block, kExact);
            return MeanOverWindows(split.held_back, task.schedule.batch_size(),
                                   [&](const Tensor& indices) { return loss(student, indices); });
          },
      .device = task.device};
  TEQ_ASSIGN_OR_RETURN(const FitResult result, Fit(trainables, fit, on_step, cancelled));
  teq::v1::BlockTraining& entry = *report.add_blocks();
  entry.set_block(static_cast<int>(block));
  entry.set_round_to_nearest_loss(result.round_to_nearest_loss);
  entry.set_initial_loss(result.initial_loss);
  entry.set_final_loss(result.final_loss);
  entry.set_best_step(result.best_step);
  entry.mutable_loss_curve()->Add(result.curve.begin(), result.curve.end());
  return absl::OkStatus();
}

}  // namespace

void AddTrainables(const TrainingTask& task, Parameters& parameters) {
  for (std::size_t block = 0; block < parameters.adjustments.size(); ++block) {
    for (std::size_t i = 0; i < task.grids[block].size(); ++i) {
      const LayerGrid& grid = task.grids[block][i];
      if (!grid.quantized) continue;
      const Tensor& weight = task.decoder.blocks[block].linears[i].weight;
      quant::Adjustment& adjustment = parameters.adjustments[block][i];
      const std::int64_t groups = weight.size(1) / quant::GroupSize(grid, weight.size(1));
      for (Tensor* factor : {&adjustment.clip.low, &adjustment.clip.high}) {
        if (task.rates.clipping > 0 && !factor->defined()) {
          *factor = torch::ones({weight.size(0), groups}, weight.options());
        }
      }
      if (task.rates.rounding > 0 && !adjustment.offset.defined()) {
        adjustment.offset = torch::zeros_like(weight);
      }
    }
  }
}

absl::Status TrainEndToEnd(const TrainingTask& task, int steps, teq::v1::Objective objective,
                           Parameters& parameters, teq::v1::Training& report,
                           const StepCallback& on_step, const std::atomic<bool>& cancelled) {
  AddTrainables(task, parameters);
  Count(task, parameters, report);
  std::vector<Trainable> trainables;
  for (std::size_t block = 0; block < task.grids.size(); ++block) {
    for (Trainable& trainable : BlockTrainables(task, parameters, block)) {
      trainables.push_back(std::move(trainable));
    }
  }
  const Split split = SplitWindows(task);
  const std::int64_t batch_size = task.schedule.batch_size();
  const Tensor ids = model::WindowTensor(task.windows);
  std::optional<model::HeadReference> teacher;
  if (objective == teq::v1::OBJECTIVE_KL) teacher = Teacher(task.decoder, ids, batch_size);
  const auto loss = [&](const model::Decoder& student, const Tensor& indices) {
    std::optional<model::HeadReference> chosen;
    if (teacher) chosen = model::Select(*teacher, indices);
    return EndToEndLoss(student, ids.index_select(0, indices), chosen);
  };
  const FitTask fit{.steps = steps,
                    .batch_size = batch_size,
                    .window_tokens = task.windows.length,
                    .windows = split.training,
                    .seed = static_cast<std::uint64_t>(task.seed),
                    .loss =
                        [&](const Tensor& indices) {
                          return loss(Student(task, parameters, task.products), indices);
                        },
                    .held_back_loss =
                        [&] {
                          const torch::NoGradGuard no_gradient;
                          const model::Decoder student = Student(task, parameters, kExact);
                          return MeanOverWindows(
                              split.held_back, batch_size,
                              [&](const Tensor& indices) { return loss(student, indices); });
                        },
                    .device = task.device};
  TEQ_ASSIGN_OR_RETURN(const FitResult result, Fit(trainables, fit, on_step, cancelled));
  report.set_steps(steps);
  report.set_objective(objective);
  report.set_round_to_nearest_loss(result.round_to_nearest_loss);
  report.set_initial_loss(result.initial_loss);
  report.set_final_loss(result.final_loss);
  report.set_best_step(result.best_step);
  report.clear_loss_curve();
  report.mutable_loss_curve()->Add(result.curve.begin(), result.curve.end());
  return absl::OkStatus();
}

absl::Status TrainBlocks(const TrainingTask& task, Parameters& parameters,
                         teq::v1::Training& report, const StepCallback& on_step,
                         const std::atomic<bool>& cancelled) {
  AddTrainables(task, parameters);
  Count(task, parameters, report);
  const int steps = task.schedule.steps();
  report.set_steps(steps);
  report.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  const Split split = SplitWindows(task);
  const std::int64_t batch_size = task.schedule.batch_size();
  const bool reads_quantized = task.schedule.block_inputs() != teq::v1::BLOCK_INPUTS_FLOAT;
  const model::BlockRunner runner(task.decoder, task.windows.length);
  const auto blocks = static_cast<int>(task.decoder.blocks.size());

  Tensor float_states = runner.Embed(model::WindowTensor(task.windows));
  Tensor quantized_states = float_states;
  for (std::size_t block = 0; block < task.decoder.blocks.size(); ++block) {
    const Tensor targets = RunAll(runner, task.decoder.blocks[block], float_states, batch_size);
    const auto on_block_step = [&](teq::v1::MetricSample sample) {
      sample.set_step(sample.step() + static_cast<int>(block) * steps);
      sample.set_total_steps(blocks * steps);
      on_step(sample);
    };
    TEQ_RETURN_IF_ERROR(TrainBlock(task, block, split, runner,
                                   {reads_quantized ? quantized_states : float_states, targets},
                                   parameters, report, on_block_step, cancelled));
    if (reads_quantized) {
      quantized_states = RunAll(runner, StudentBlock(task, parameters, block, kExact),
                                quantized_states, batch_size);
    }
    float_states = targets;
  }
  return absl::OkStatus();
}

std::int64_t EndToEndBytes(const TrainingTask& task) {
  constexpr std::int64_t kFloat = 4;
  // A block's activations in the graph, in units of tokens * (hidden + mlp): norms, projections,
  // gates and their products; a token's experts count as one MLP. Attention's weights come on top
  // where they are kept.
  constexpr std::int64_t kActivations = 8;
  const model_info::ModelConfig& config = task.decoder.config;
  std::int64_t weights = 0;
  for (const model::Block& block : task.decoder.blocks) {
    for (const model::Linear& linear : block.linears) weights += linear.weight.numel();
  }
  const std::int64_t copies = task.rates.rounding > 0 ? 8 : 3;
  const std::int64_t length = task.windows.length;
  const std::int64_t tokens = task.schedule.batch_size() * length;
  const model_info::Experts& experts = config.experts;
  const std::int64_t mlp =
      std::max(config.intermediate_size,
               experts.per_token * experts.intermediate_size + experts.shared_intermediate_size);
  const bool one_pass = model::AttendsInOnePass(task.decoder.embedding, config.attention_softcap);
  const std::int64_t attention =
      one_pass ? 0 : 4 * task.schedule.batch_size() * config.heads * length * length;
  const std::int64_t graph =
      config.layers * (kActivations * tokens * (config.hidden_size + mlp) + attention);
  const std::int64_t logits = 2 * model::SliceLogits(tokens);
  const std::int64_t states = 2 * task.windows.count * length * config.embedding_size;
  return kFloat * (copies * weights + graph + logits + states);
}

}  // namespace teq::transform
