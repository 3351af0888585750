#include "worker/engine/teq/fit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"
#include "torch/optim/adam.h"
#include "worker/engine/cancellation.h"

namespace teq::transform {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr int kPlainRounding = -1;
// The held-back loss is measured this many times, beside the start.
constexpr int kMeasurements = 10;

void Shuffle(std::vector<std::int64_t>& order, std::mt19937_64& generator) {
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
}

/// Endless batches: every window once, in an order of its own each time round.
class Batches {
 public:
  explicit Batches(const FitTask& task)
      : order_(task.windows),
        batch_size_(
            std::min<std::size_t>(static_cast<std::size_t>(task.batch_size), task.windows.size())),
        next_(order_.size()),
        generator_(task.seed) {}

  Tensor Next() {
    std::vector<std::int64_t> batch;
    while (batch.size() < batch_size_) {
      if (next_ == order_.size()) {
        Shuffle(order_, generator_);
        next_ = 0;
      }
      batch.push_back(order_[next_++]);
    }
    return torch::tensor(batch, torch::kInt64);
  }

 private:
  std::vector<std::int64_t> order_;
  std::size_t batch_size_;
  std::size_t next_;
  std::mt19937_64 generator_;
};

/// Moves the trainables that have a learning rate.
class Mover {
 public:
  explicit Mover(const std::vector<Trainable>& trainables) : trainables_(trainables) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    for (const Trainable& trainable : trainables) {
      if (trainable.learning_rate == 0) continue;
      Tensor value = trainable.value;
      value.requires_grad_(true);
      if (trainable.optimizer == teq::v1::OPTIMIZER_SIGN_SGD) continue;
      auto options = std::make_unique<torch::optim::AdamOptions>();
      options->betas({0.9, 0.99});
      groups.emplace_back(std::vector<Tensor>{value}, std::move(options));
      adam_rates_.push_back(trainable.learning_rate);
    }
    if (!groups.empty()) adam_ = std::make_unique<torch::optim::Adam>(groups);
  }

  ~Mover() {
    for (const Trainable& trainable : trainables_) {
      Tensor value = trainable.value;
      value.requires_grad_(false);
      value.mutable_grad().reset();
    }
  }
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  void Step(double factor) {
    if (adam_) {
      for (std::size_t i = 0; i < adam_rates_.size(); ++i) {
        auto& options = adam_->param_groups()[i].options();
        static_cast<torch::optim::AdamOptions&>(options).lr(adam_rates_[i] * factor);
      }
      adam_->step();
    }
    const torch::NoGradGuard no_gradient;
    for (const Trainable& trainable : trainables_) {
      if (trainable.learning_rate == 0) continue;
      Tensor value = trainable.value;
      if (trainable.optimizer == teq::v1::OPTIMIZER_SIGN_SGD && value.grad().defined()) {
        value.sub_(value.grad().sign() * (trainable.learning_rate * factor));
      }
      value.clamp_(trainable.low, trainable.high);
      value.mutable_grad().reset();
    }
  }

 private:
  const std::vector<Trainable>& trainables_;
  std::unique_ptr<torch::optim::Adam> adam_;
  std::vector<double> adam_rates_;
};

std::vector<Tensor> Copies(const std::vector<Trainable>& trainables) {
  std::vector<Tensor> copies;
  copies.reserve(trainables.size());
  for (const Trainable& trainable : trainables) copies.push_back(trainable.value.detach().clone());
  return copies;
}

void Restore(const std::vector<Trainable>& trainables, const std::vector<Tensor>& copies) {
  const torch::NoGradGuard no_gradient;
  for (std::size_t i = 0; i < trainables.size(); ++i) {
    Tensor value = trainables[i].value;
    value.copy_(copies[i]);
  }
}

/// Exponential averages of the trainables, over about the last twentieth of a training's steps:
/// where roundings flip back and forth from step to step, the average is steadier than any iterate.
class Average {
 public:
  Average(const std::vector<Trainable>& trainables, int steps)
      : trainables_(trainables),
        values_(Copies(trainables)),
        weight_(1 / std::max(1.0, steps / 20.0)) {}

  void Add() {
    const torch::NoGradGuard no_gradient;
    for (std::size_t i = 0; i < values_.size(); ++i) {
      if (trainables_[i].learning_rate > 0) values_[i].lerp_(trainables_[i].value, weight_);
    }
  }
  [[nodiscard]] const std::vector<Tensor>& values() const { return values_; }

 private:
  const std::vector<Trainable>& trainables_;
  std::vector<Tensor> values_;
  double weight_;
};

/// The best iterate so far, by held-back loss.
struct Best {
  double loss = std::numeric_limits<double>::infinity();
  int step = kPlainRounding;
  std::vector<Tensor> values;

  void Offer(double candidate, int candidate_step, const std::vector<Trainable>& trainables) {
    if (!(candidate < loss)) return;
    loss = candidate;
    step = candidate_step;
    values = Copies(trainables);
  }
};

absl::Status NotFinite(int step, double value) {
  return Error(
      absl::StatusCode::kAborted, "LOSS_NOT_FINITE",
      fmt::format("the loss is {} at step {}; lower every learning_rate of the recipe, and "
                  "check the model's weights",
                  value, step),
      {{"step", std::to_string(step)}});
}

}  // namespace

double LearningRateFactor(int step, int steps) {
  const int warm_up = std::max(1, steps / 20);
  if (step <= warm_up) return static_cast<double>(step) / warm_up;
  return static_cast<double>(steps - step + 1) / (steps - warm_up + 1);
}

std::vector<std::int64_t> Shuffled(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 generator(seed);
  Shuffle(order, generator);
  return order;
}

absl::StatusOr<FitResult> Fit(const std::vector<Trainable>& trainables, const FitTask& task,
                              const StepCallback& on_step, const std::atomic<bool>& cancelled) {
  FitResult result;
  Best best;
  const std::vector<Tensor> start = Copies(trainables);
  for (const Trainable& trainable : trainables) Tensor(trainable.value).fill_(trainable.neutral);
  result.round_to_nearest_loss = task.held_back_loss();
  if (!std::isfinite(result.round_to_nearest_loss)) {
    return NotFinite(0, result.round_to_nearest_loss);
  }
  best.Offer(result.round_to_nearest_loss, kPlainRounding, trainables);
  Restore(trainables, start);
  result.initial_loss = task.held_back_loss();
  best.Offer(result.initial_loss, 0, trainables);

  Batches batches(task);
  {
    Mover mover(trainables);
    Average average(trainables, task.steps);
    const int interval = std::max(1, task.steps / kMeasurements);
    for (int step = 1; step <= task.steps; ++step) {
      TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled));
      const Clock::time_point begin = Clock::now();
      const Tensor indices = batches.Next();
      const Tensor loss = task.loss(indices);
      const auto value = loss.item<double>();
      if (!std::isfinite(value)) return NotFinite(step, value);
      loss.backward();
      const double factor = LearningRateFactor(step, task.steps);
      mover.Step(factor);
      average.Add();
      TEQ_RETURN_IF_ERROR(model::EndStep(task.device));
      const std::chrono::duration<double> elapsed = Clock::now() - begin;

      teq::v1::LossPoint& point = result.curve.emplace_back();
      point.set_step(step);
      point.set_loss(value);
      if (step % interval == 0 || step == task.steps) {
        const std::vector<Tensor> iterate = Copies(trainables);
        Restore(trainables, average.values());
        const double held_back = task.held_back_loss();
        point.set_held_back_loss(held_back);
        best.Offer(held_back, step, trainables);
        Restore(trainables, iterate);
      }
      teq::v1::MetricSample sample;
      sample.set_step(step);
      sample.set_total_steps(task.steps);
      sample.set_loss(value);
      sample.set_learning_rate(factor * trainables.front().learning_rate);
      sample.set_tokens_per_second(static_cast<double>(indices.numel() * task.window_tokens) /
                                   elapsed.count());
      *sample.mutable_observe_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
      on_step(sample);
    }
  }
  Restore(trainables, best.values);
  result.final_loss = best.loss;
  result.best_step = best.step;
  return result;
}

}  // namespace teq::transform
