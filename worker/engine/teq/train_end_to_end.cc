#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "client/model_info/run_sizes.h"
#include "proto/spec/error.h"
#include "torch/autograd.h"
#include "worker/engine/model/head_loss.h"
#include "worker/engine/model/window_states.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/teq/redraw.h"
#include "worker/engine/teq/train.h"
#include "worker/engine/teq/training_parts.h"

namespace teq::transform {
namespace {

using torch::Tensor;

/// Of every token the one that follows in its window, [count, length]; -1 after the last.
Tensor NextOf(const Tensor& ids) { return torch::constant_pad_nd(ids.slice(1, 1), {0, 1}, -1); }

/// The float model's distributions over all windows, with the task's share of the next tokens mixed
/// in, [count, length, ...], on the host.
absl::StatusOr<model::HeadReference> Teacher(const TrainingTask& task,
                                             const model::BlockRunner& runner, const Tensor& ids) {
  const torch::NoGradGuard no_gradient;
  TEQ_ASSIGN_OR_RETURN(model::WindowStates states,
                       model::WindowStates::Embed(task.decoder, runner, ids,
                                                  task.schedule.batch_size(), task.scratch));
  for (std::size_t number = 0; number < task.decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, task.decoder.ReadBlock(number));
    states.Advance([&](const Tensor& batch) { return runner.Run(block, batch); });
  }
  const std::int64_t count = ids.size(0);
  const std::int64_t length = ids.size(1);
  const std::int64_t width = task.decoder.config.embedding_size;
  const model::NextTokens next{NextOf(ids), task.next_token_share};
  model::HeadReference all;
  TEQ_ASSIGN_OR_RETURN(all.states, task.scratch.Zeros({count, length, width}, torch::kFloat32));
  if (task.decoder.config.logit_softcap == 0) {
    TEQ_ASSIGN_OR_RETURN(all.mean_row, task.scratch.Zeros({count, length, width}, torch::kFloat32));
    TEQ_ASSIGN_OR_RETURN(all.log_sum, task.scratch.Zeros({count, length}, torch::kFloat32));
  } else {
    all.next = next;
  }
  std::int64_t begin = 0;
  states.ForEach([&](const Tensor& batch) {
    const Tensor following = next.ids.narrow(0, begin, batch.size(0)).to(batch.device());
    const model::HeadReference part =
        model::MakeHeadReference(task.decoder, runner.Finish(batch), {following, next.share});
    const auto put = [&](Tensor& whole, const Tensor& value) {
      if (value.defined()) whole.narrow(0, begin, batch.size(0)).copy_(value);
    };
    put(all.states, part.states);
    put(all.mean_row, part.mean_row);
    put(all.log_sum, part.log_sum);
    begin += batch.size(0);
  });
  return all;
}

/// One training of all blocks together.
class EndToEnd {
 public:
  EndToEnd(const TrainingTask& task, const Parameters& parameters)
      : task_(task),
        parameters_(parameters),
        ids_(model::WindowTensor(task.windows)),
        split_(SplitWindows(task)),
        runner_(task.decoder, task.windows.length),
        head_(task.decoder),
        generator_(static_cast<std::uint64_t>(task.seed)) {
    head_.blocks.clear();
    head_.head_products = task.products;
    for (std::size_t number = 0; number < task.decoder.size(); ++number) {
      const std::size_t begin = trainables_.size();
      for (Trainable& trainable : BlockTrainables(task, parameters, number)) {
        trainables_.push_back(std::move(trainable));
      }
      ranges_.push_back({begin, trainables_.size()});
    }
  }

  /// Without it there is nothing to run.
  [[nodiscard]] bool trains() const {
    return std::ranges::any_of(trainables_,
                               [](const auto& each) { return each.learning_rate > 0; });
  }

  absl::StatusOr<FitResult> Run(int steps, teq::v1::Objective objective,
                                const StepCallback& on_step, const std::atomic<bool>& cancelled) {
    if (objective == teq::v1::OBJECTIVE_KL) {
      TEQ_ASSIGN_OR_RETURN(teacher_, Teacher(task_, runner_, ids_));
    }
    if (!task_.stores_graph) TEQ_RETURN_IF_ERROR(MakeRoomForInputs());
    const FitTask fit{.steps = steps,
                      .rounds = task_.rounds,
                      .batch_size = task_.schedule.batch_size(),
                      .window_tokens = task_.windows.length,
                      .windows = split_.training,
                      .seed = static_cast<std::uint64_t>(task_.seed),
                      .step =
                          [this](const Tensor& indices, const GradientsReady& ready) {
                            return task_.stores_graph ? StepOfGraph(indices, ready)
                                                      : StepByBlock(indices, ready);
                          },
                      .held_back_loss = [this] { return HeldBackLoss(); },
                      .begin_round = [this](int) { return KeepMargins(); },
                      .device = task_.device};
    return Fit(trainables_, fit, task_.stores_graph ? task_.working : task_.scratch, on_step,
               cancelled);
  }

 private:
  /// What a step trains on.
  struct Batch {
    Tensor ids;                                   // [batch, length]
    std::optional<model::HeadReference> teacher;  // on the decoder's device; with KL
  };

  absl::Status MakeRoomForInputs() {
    const auto batch = std::min<std::int64_t>(task_.schedule.batch_size(),
                                              static_cast<std::int64_t>(split_.training.size()));
    for (std::size_t number = 0; number < task_.decoder.size(); ++number) {
      TEQ_ASSIGN_OR_RETURN(
          inputs_.emplace_back(),
          task_.scratch.Zeros({batch, task_.windows.length, task_.decoder.config.hidden_size},
                              torch::kFloat32));
    }
    return absl::OkStatus();
  }

  [[nodiscard]] absl::StatusOr<model::Block> Student(std::size_t number,
                                                     torch::ScalarType products) const {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, task_.decoder.ReadBlock(number));
    model::Block student = StudentBlock(task_, parameters_, block, products);
    for (std::size_t i = ranges_[number].begin; i < ranges_[number].end; ++i) {
      task_.scratch.Release(trainables_[i].value);
    }
    return student;
  }

  absl::Status KeepMargins() const {
    if (task_.rounding_margin == 0) return absl::OkStatus();
    for (std::size_t number = 0; number < task_.decoder.size(); ++number) {
      TEQ_ASSIGN_OR_RETURN(const model::Block block, task_.decoder.ReadBlock(number));
      KeepMargin(task_, block, parameters_);
    }
    return absl::OkStatus();
  }

  /// Some windows, as they are.
  [[nodiscard]] Batch Original(const Tensor& indices) const {
    Batch batch{ids_.index_select(0, indices), {}};
    if (teacher_) batch.teacher = model::Select(*teacher_, indices, task_.decoder.head.device());
    return batch;
  }

  /// Some windows with a share of their tokens drawn again: no two steps see the same.
  [[nodiscard]] absl::StatusOr<Batch> Redrawn(const Tensor& indices) {
    TEQ_ASSIGN_OR_RETURN(
        const RedrawnWindows windows,
        Redraw(task_.decoder, ids_.index_select(0, indices),
               std::max(model_info::kDrawnOfStep, task_.redrawn_share), generator_));
    const torch::NoGradGuard no_gradient;
    TEQ_ASSIGN_OR_RETURN(const Tensor states, model::HiddenStates(task_.decoder, windows.ids));
    // What was drawn is no text that follows.
    const Tensor next = NextOf(windows.ids.masked_fill(windows.drawn, -1));
    return Batch{windows.ids,
                 model::MakeHeadReference(task_.decoder, states,
                                          {next.to(states.device()), task_.next_token_share})};
  }

  /// Where less than kDrawnOfStep is to be drawn, some steps see the text as it is.
  [[nodiscard]] absl::StatusOr<Batch> TrainingBatch(const Tensor& indices) {
    if (!teacher_) return Original(indices);
    drawn_steps_ += std::min(1.0, task_.redrawn_share / model_info::kDrawnOfStep);
    if (drawn_steps_ < 1) return Original(indices);
    drawn_steps_ -= 1;
    return Redrawn(indices);
  }

  /// The objective on some windows, mean over their predicted tokens, from what the head reads.
  static Tensor HeadLoss(const model::Decoder& head, const Tensor& states, const Batch& batch) {
    if (batch.teacher) return model::HeadDivergence(head, states, *batch.teacher);
    return model::HeadCrossEntropy(head, states.slice(1, 0, -1), batch.ids.slice(1, 1).flatten());
  }

  absl::StatusOr<double> StepOfGraph(const Tensor& indices, const GradientsReady& ready) {
    TEQ_ASSIGN_OR_RETURN(const Batch batch, TrainingBatch(indices));
    Tensor states = runner_.Embed(batch.ids);
    for (std::size_t number = 0; number < task_.decoder.size(); ++number) {
      TEQ_ASSIGN_OR_RETURN(const model::Block student, Student(number, task_.products));
      states = runner_.Run(student, states);
    }
    return Descend(HeadLoss(head_, runner_.Finish(states), batch), {0, trainables_.size()}, ready);
  }

  /// Forward with nothing kept but what each block reads; then from the last block to the first,
  /// each runs again and is moved before the one below it.
  absl::StatusOr<double> StepByBlock(const Tensor& indices, const GradientsReady& ready) {
    TEQ_ASSIGN_OR_RETURN(const Batch batch, TrainingBatch(indices));
    Tensor states = runner_.Embed(batch.ids);
    for (std::size_t number = 0; number < task_.decoder.size(); ++number) {
      const torch::NoGradGuard no_gradient;
      TEQ_ASSIGN_OR_RETURN(const model::Block student, Student(number, task_.products));
      inputs_[number].copy_(states);
      task_.scratch.Release(inputs_[number]);
      states = runner_.Run(student, states);
    }
    states.requires_grad_(true);
    const Tensor loss = HeadLoss(head_, runner_.Finish(states), batch);
    const auto value = loss.item<double>();
    if (!std::isfinite(value)) return value;
    loss.backward();
    Tensor gradient = states.grad();
    for (std::size_t number = task_.decoder.size(); number-- > 0;) {
      TEQ_ASSIGN_OR_RETURN(const model::Block student, Student(number, task_.products));
      Tensor input = inputs_[number].to(states.device()).detach();
      if (number > 0) input.requires_grad_(true);
      const Tensor output = runner_.Run(student, input);
      if (output.requires_grad()) torch::autograd::backward({output}, {gradient});
      ready(ranges_[number]);
      gradient = input.grad();
      input.mutable_grad().reset();
    }
    return value;
  }

  absl::StatusOr<double> HeldBackLoss() {
    const torch::NoGradGuard no_gradient;
    TEQ_ASSIGN_OR_RETURN(
        model::WindowStates states,
        model::WindowStates::Embed(task_.decoder, runner_, ids_.index_select(0, split_.held_back),
                                   task_.schedule.batch_size(), task_.scratch));
    for (std::size_t number = 0; number < task_.decoder.size(); ++number) {
      TEQ_ASSIGN_OR_RETURN(const model::Block student, Student(number, kExact));
      states.Advance([&](const Tensor& batch) { return runner_.Run(student, batch); });
    }
    double sum = 0;
    std::int64_t begin = 0;
    states.ForEach([&](const Tensor& batch) {
      const Tensor indices = split_.held_back.narrow(0, begin, batch.size(0));
      sum += HeadLoss(task_.decoder, runner_.Finish(batch), Original(indices)).item<double>() *
             static_cast<double>(batch.size(0));
      begin += batch.size(0);
    });
    return sum / static_cast<double>(begin);
  }

  const TrainingTask& task_;
  const Parameters& parameters_;
  Tensor ids_;  // of all windows
  Split split_;
  model::BlockRunner runner_;
  model::Decoder head_;  // for its head
  std::vector<Trainable> trainables_;
  std::vector<TrainableRange> ranges_;           // by block
  std::optional<model::HeadReference> teacher_;  // of all windows; with KL
  std::mt19937_64 generator_;                    // of what is drawn again
  double drawn_steps_ = 0;                       // that are due
  std::vector<Tensor> inputs_;  // by block, [batch, length, hidden]; where no graph is stored
};

}  // namespace

absl::Status TrainEndToEnd(const TrainingTask& task, int steps, teq::v1::Objective objective,
                           Parameters& parameters, teq::v1::Training& report,
                           const StepCallback& on_step, const std::atomic<bool>& cancelled) {
  for (std::size_t number = 0; number < task.decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, task.decoder.ReadBlock(number));
    BlockAdjustments& adjustments = parameters.adjustments[number];
    adjustments = OnDevice(adjustments, task.device.torch);
    TEQ_RETURN_IF_ERROR(AddTrainables(task, block, adjustments));
  }
  CountTrainables(task, parameters, report);
  EndToEnd training(task, parameters);
  FitResult result;
  if (training.trains()) {
    TEQ_ASSIGN_OR_RETURN(result, training.Run(steps, objective, on_step, cancelled));
  }
  for (BlockAdjustments& adjustments : parameters.adjustments) {
    TEQ_RETURN_IF_ERROR(KeepOnHost(adjustments, task.scratch));
  }
  report.set_steps(training.trains() ? steps : 0);
  report.set_objective(objective);
  report.set_round_to_nearest_loss(result.round_to_nearest_loss);
  report.set_initial_loss(result.initial_loss);
  report.set_final_loss(result.final_loss);
  report.set_best_step(result.best_step);
  report.clear_loss_curve();
  report.mutable_loss_curve()->Add(result.curve.begin(), result.curve.end());
  return absl::OkStatus();
}

}  // namespace teq::transform
