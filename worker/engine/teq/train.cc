#include "worker/engine/teq/train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"
#include "torch/nn/functional/loss.h"
#include "torch/optim/adam.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/teq/fold.h"

namespace teq::transform {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr int kPlainRounding = -1;
// The held-back loss is measured this many times, beside the start.
constexpr int kMeasurements = 20;

/// Indices 0 .. count - 1 in an order that depends on the generator alone, not on the library.
std::vector<std::int64_t> Shuffled(std::int64_t count, std::mt19937_64& generator) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
  return order;
}

/// Windows to train on and windows held back, each [count, length].
struct Split {
  Tensor training;
  Tensor held_back;
};

Split SplitWindows(const TrainingTask& task, std::mt19937_64& generator) {
  const Tensor windows = model::WindowTensor(task.windows);
  const auto held = std::clamp<std::int64_t>(
      std::llround(task.settings.held_back_fraction() * static_cast<double>(windows.size(0))), 1,
      windows.size(0) - 1);
  const Tensor order = torch::tensor(Shuffled(windows.size(0), generator), torch::kInt64);
  return {windows.index_select(0, order.slice(0, held)),
          windows.index_select(0, order.slice(0, 0, held))};
}

/// Endless batches: every window once, in an order of its own each time round.
class Batches {
 public:
  Batches(Tensor windows, std::int64_t batch_size, std::mt19937_64& generator)
      : windows_(std::move(windows)),
        batch_size_(std::min(batch_size, windows_.size(0))),
        generator_(generator) {}

  Tensor Next() {
    std::vector<std::int64_t> batch;
    while (static_cast<std::int64_t>(batch.size()) < batch_size_) {
      if (next_ == order_.size()) {
        order_ = Shuffled(windows_.size(0), generator_);
        next_ = 0;
      }
      batch.push_back(order_[next_++]);
    }
    return windows_.index_select(0, torch::tensor(batch, torch::kInt64));
  }

 private:
  Tensor windows_;
  std::int64_t batch_size_;
  std::mt19937_64& generator_;
  std::vector<std::int64_t> order_;
  std::size_t next_ = 0;
};

/// The objective on a batch, mean over its predicted tokens.
Tensor Loss(const model::Decoder& teacher, const model::Decoder& student, const Tensor& ids,
            teq::v1::Objective objective) {
  const Tensor logits = model::Logits(student, ids);
  if (objective == teq::v1::OBJECTIVE_LM_LOSS) {
    return torch::nn::functional::cross_entropy(logits.slice(1, 0, -1).flatten(0, 1),
                                                ids.slice(1, 1).flatten().to(logits.device()));
  }
  Tensor target;
  {
    const torch::NoGradGuard no_gradient;
    target = torch::log_softmax(model::Logits(teacher, ids), -1);
  }
  return torch::kl_div(torch::log_softmax(logits, -1), target, at::Reduction::Sum,
                       /*log_target=*/true) /
         static_cast<double>(ids.numel());
}

model::Decoder Student(const TrainingTask& task, const std::vector<Tensor>& log_scales) {
  return FakeQuantizeDecoder(task.decoder, task.groups, log_scales, task.grids, task.stored,
                             task.settings.gradient());
}

double HeldBackLoss(const TrainingTask& task, const Tensor& windows,
                    const std::vector<Tensor>& log_scales) {
  const torch::NoGradGuard no_gradient;
  const model::Decoder student = Student(task, log_scales);
  double sum = 0;
  for (const Tensor& ids : windows.split(task.settings.batch_size())) {
    sum += Loss(task.decoder, student, ids, task.settings.objective()).item<double>() *
           static_cast<double>(ids.size(0));
  }
  return sum / static_cast<double>(windows.size(0));
}

std::vector<Tensor> Copies(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> copies;
  copies.reserve(tensors.size());
  for (const Tensor& tensor : tensors) copies.push_back(tensor.detach().clone());
  return copies;
}

/// The best iterate so far, by held-back loss.
struct Best {
  double loss = std::numeric_limits<double>::infinity();
  int step = kPlainRounding;
  std::vector<Tensor> log_scales;

  void Offer(double candidate, int candidate_step, const std::vector<Tensor>& scales) {
    if (!(candidate < loss)) return;
    loss = candidate;
    step = candidate_step;
    log_scales = Copies(scales);
  }
};

absl::Status NotFinite(int step, double value) {
  return Error(
      absl::StatusCode::kAborted, "LOSS_NOT_FINITE",
      fmt::format("the loss is {} at step {}; lower recipe.transform.teq.learning_rate, and "
                  "check the model's weights",
                  value, step),
      {{"step", std::to_string(step)}});
}

std::vector<Tensor> Ones(const std::vector<Tensor>& like) {
  std::vector<Tensor> ones;
  ones.reserve(like.size());
  for (const Tensor& tensor : like) ones.push_back(torch::zeros_like(tensor));
  return ones;
}

}  // namespace

double LearningRate(double peak, int step, int steps) {
  const int warm_up = std::max(1, steps / 20);
  if (step <= warm_up) return peak * step / warm_up;
  return peak * (steps - step + 1) / (steps - warm_up + 1);
}

absl::StatusOr<TrainedScales> TrainScales(const TrainingTask& task, std::vector<Tensor> start,
                                          const StepCallback& on_step,
                                          const std::atomic<bool>& cancelled) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(task.seed));
  const Split split = SplitWindows(task, generator);
  Batches batches(split.training, task.settings.batch_size(), generator);
  const int steps = task.settings.steps();

  TrainedScales result;
  result.report.set_steps(steps);
  result.report.set_objective(task.settings.objective());
  Best best;
  const double plain = HeldBackLoss(task, split.held_back, Ones(start));
  result.report.set_round_to_nearest_loss(plain);
  if (!std::isfinite(plain)) return NotFinite(0, plain);
  best.Offer(plain, kPlainRounding, Ones(start));
  const double initial = HeldBackLoss(task, split.held_back, start);
  result.report.set_initial_loss(initial);
  best.Offer(initial, 0, start);

  std::vector<Tensor> log_scales = Copies(start);
  std::int64_t trained = 0;
  for (Tensor& tensor : log_scales) {
    tensor.requires_grad_(true);
    trained += tensor.numel();
  }
  result.report.mutable_trainable_parameters()->set_scales(trained);
  torch::optim::Adam optimizer(log_scales, torch::optim::AdamOptions().betas({0.9, 0.99}));
  const int interval = std::max(1, steps / kMeasurements);
  for (int step = 1; step <= steps; ++step) {
    if (cancelled) return Error(absl::StatusCode::kCancelled, "CANCELLED", "the run was cancelled");
    const Clock::time_point begin = Clock::now();
    const double rate = LearningRate(task.settings.learning_rate(), step, steps);
    static_cast<torch::optim::AdamOptions&>(optimizer.param_groups()[0].options()).lr(rate);
    const Tensor ids = batches.Next();
    optimizer.zero_grad();
    const Tensor loss =
        Loss(task.decoder, Student(task, log_scales), ids, task.settings.objective());
    const auto value = loss.item<double>();
    if (!std::isfinite(value)) return NotFinite(step, value);
    loss.backward();
    optimizer.step();

    teq::v1::LossPoint& point = *result.report.add_loss_curve();
    point.set_step(step);
    point.set_loss(value);
    if (step % interval == 0 || step == steps) {
      const double held_back = HeldBackLoss(task, split.held_back, log_scales);
      point.set_held_back_loss(held_back);
      best.Offer(held_back, step, log_scales);
    }
    teq::v1::MetricSample sample;
    sample.set_step(step);
    sample.set_total_steps(steps);
    sample.set_loss(value);
    sample.set_learning_rate(rate);
    const std::chrono::duration<double> elapsed = Clock::now() - begin;
    sample.set_tokens_per_second(static_cast<double>(ids.numel()) / elapsed.count());
    *sample.mutable_observe_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
    on_step(sample);
  }
  result.report.set_final_loss(best.loss);
  result.report.set_best_step(best.step);
  result.log_scales = std::move(best.log_scales);
  return result;
}

}  // namespace teq::transform
