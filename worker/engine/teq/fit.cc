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
#include "worker/engine/cancellation.h"
#include "worker/engine/model/host_memory.h"

namespace teq::transform {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr int kPlainRounding = -1;
// The held-back loss is measured this many times, beside the start.
constexpr int kMeasurements = 10;
// Of a curve beside those, at most: a report of many blocks and steps has to stay small.
constexpr int kCurvePoints = 2000;

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

// Adam's, for gradients whose signs flip as roundings do.
constexpr double kMeanDecay = 0.9;
constexpr double kSquareDecay = 0.99;
constexpr double kEpsilon = 1e-8;

/// What is kept of a trainable beside its value. By block and on the host it may lie in files,
/// which LibTorch's optimizers could not be told.
struct Memory {
  Tensor mean;     // Adam's; undefined for signs and where nothing is trained
  Tensor square;   // likewise
  Tensor average;  // of the iterates
  Tensor best;
};

/// A trainable's value exchanged with another tensor's.
void Exchange(const Trainable& trainable, Tensor& other) {
  Tensor value = trainable.value;
  const Tensor before = value.detach().clone();
  value.copy_(other);
  other.copy_(before);
}

/// The trainables with what a training keeps of them.
class Course {
 public:
  static absl::StatusOr<Course> Start(const std::vector<Trainable>& trainables,
                                      model::Scratch& scratch) {
    Course course(trainables, scratch);
    for (const Trainable& trainable : trainables) {
      Memory& memory = course.memories_.emplace_back();
      std::vector<Tensor*> kept = {&memory.average, &memory.best};
      if (trainable.learning_rate > 0 && trainable.optimizer != teq::v1::OPTIMIZER_SIGN_SGD) {
        kept.insert(kept.end(), {&memory.mean, &memory.square});
      }
      for (Tensor* tensor : kept) {
        TEQ_ASSIGN_OR_RETURN(*tensor, scratch.Zeros(trainable.value.sizes(), torch::kFloat32,
                                                    trainable.value.device()));
      }
      memory.average.copy_(trainable.value);
    }
    return course;
  }

  /// Everything becomes what it is in plain rounding. Average has the start.
  void TakePlain() {
    for (const Trainable& trainable : trainables_) Tensor(trainable.value).fill_(trainable.neutral);
  }
  void TakeStart() {
    ForEach([](const Trainable& trainable, Memory& memory) {
      Tensor(trainable.value).copy_(memory.average);
    });
  }
  /// Exchanges the iterate with the average; twice is nothing.
  void ExchangeAverage() {
    ForEach(
        [](const Trainable& trainable, Memory& memory) { Exchange(trainable, memory.average); });
  }
  void KeepBest() {
    ForEach([](const Trainable& trainable, Memory& memory) { memory.best.copy_(trainable.value); });
  }
  void TakeBest() {
    ForEach([](const Trainable& trainable, Memory& memory) {
      Tensor(trainable.value).copy_(memory.best);
    });
  }

  /// Nothing is known of gradients any more, and the average is the value.
  void BeginRound(int steps) {
    average_weight_ = 1 / AverageSteps(steps);
    ForEach([](const Trainable& trainable, Memory& memory) {
      memory.average.copy_(trainable.value);
      if (memory.mean.defined()) memory.mean.zero_();
      if (memory.square.defined()) memory.square.zero_();
    });
  }

  /// The learning rate that is reported: of the scales, or of what else is trained.
  [[nodiscard]] double FirstRate() const {
    const auto trained = std::ranges::find_if(
        trainables_, [](const Trainable& trainable) { return trainable.learning_rate > 0; });
    return trained == trainables_.end() ? 0 : trained->learning_rate;
  }

  void RequireGradients(bool required) {
    for (const Trainable& trainable : trainables_) {
      Tensor value = trainable.value;
      value.requires_grad_(required && trainable.learning_rate > 0);
      value.mutable_grad().reset();
    }
  }

  /// Moves a range by its gradients at step `step` of the round from 1, and adds it to the average,
  /// an exponential one: where roundings flip from step to step it is steadier than any iterate.
  void Move(TrainableRange range, int step, double factor) {
    const torch::NoGradGuard no_gradient;
    for (std::size_t i = range.begin; i < range.end; ++i) {
      const Trainable& trainable = trainables_[i];
      if (trainable.learning_rate == 0) continue;
      Tensor value = trainable.value;
      const double rate = trainable.learning_rate * factor;
      if (value.grad().defined()) {
        if (trainable.optimizer == teq::v1::OPTIMIZER_SIGN_SGD) {
          value.sub_(value.grad().sign() * rate);
        } else {
          MoveByAdam(value, memories_[i], step, rate);
        }
      }
      value.clamp_(trainable.low, trainable.high);
      value.mutable_grad().reset();
      memories_[i].average.lerp_(value, average_weight_);
      Release(trainable, memories_[i]);
    }
  }

 private:
  Course(const std::vector<Trainable>& trainables, model::Scratch& scratch)
      : trainables_(trainables), scratch_(scratch) {}

  static void MoveByAdam(Tensor& value, Memory& memory, int step, double rate) {
    const Tensor& gradient = value.grad();
    memory.mean.mul_(kMeanDecay).add_(gradient, 1 - kMeanDecay);
    memory.square.mul_(kSquareDecay).addcmul_(gradient, gradient, 1 - kSquareDecay);
    const double mean_share = 1 - std::pow(kMeanDecay, step);
    const double square_share = 1 - std::pow(kSquareDecay, step);
    const Tensor denominator = memory.square.sqrt().div_(std::sqrt(square_share)).add_(kEpsilon);
    value.addcdiv_(memory.mean, denominator, -rate / mean_share);
  }

  template <typename Change>
  void ForEach(const Change& change) {
    const torch::NoGradGuard no_gradient;
    for (std::size_t i = 0; i < trainables_.size(); ++i) {
      change(trainables_[i], memories_[i]);
      Release(trainables_[i], memories_[i]);
    }
  }

  void Release(const Trainable& trainable, const Memory& memory) {
    for (const Tensor& tensor :
         {trainable.value, memory.mean, memory.square, memory.average, memory.best}) {
      scratch_.Release(tensor);
    }
  }

  const std::vector<Trainable>& trainables_;
  model::Scratch& scratch_;
  std::vector<Memory> memories_;
  double average_weight_ = 1;
};

/// Gradients are asked for as long as this lives.
class GradientScope {
 public:
  explicit GradientScope(Course& course) : course_(course) { course_.RequireGradients(true); }
  ~GradientScope() { course_.RequireGradients(false); }
  GradientScope(const GradientScope&) = delete;
  GradientScope& operator=(const GradientScope&) = delete;

 private:
  Course& course_;
};

/// The least held-back loss so far.
struct Best {
  double loss = std::numeric_limits<double>::infinity();
  int step = kPlainRounding;

  void Offer(double candidate, int candidate_step, Course& course) {
    if (!(candidate < loss)) return;
    loss = candidate;
    step = candidate_step;
    course.KeepBest();
  }
};

/// One training, round by round.
class Training {
 public:
  Training(const FitTask& task, Course& course) : task_(task), course_(course), batches_(task) {}

  /// Measures plain rounding and the start.
  absl::Status Begin() {
    course_.TakePlain();
    TEQ_ASSIGN_OR_RETURN(result_.round_to_nearest_loss, task_.held_back_loss());
    if (!std::isfinite(result_.round_to_nearest_loss)) {
      return NotFinite(0, result_.round_to_nearest_loss);
    }
    best_.Offer(result_.round_to_nearest_loss, kPlainRounding, course_);
    course_.TakeStart();
    TEQ_ASSIGN_OR_RETURN(result_.initial_loss, task_.held_back_loss());
    best_.Offer(result_.initial_loss, 0, course_);
    return absl::OkStatus();
  }

  absl::Status RunRound(int round, int steps, const StepCallback& on_step,
                        const std::atomic<bool>& cancelled) {
    const int before = done_;
    if (round > 0) course_.TakeBest();
    if (task_.begin_round) TEQ_RETURN_IF_ERROR(task_.begin_round(round));
    course_.BeginRound(steps);
    const int interval = std::max(1, task_.steps / kMeasurements);
    const int told = (task_.steps + kCurvePoints - 1) / kCurvePoints;
    for (int step = 1; step <= steps; ++step) {
      TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled));
      const Clock::time_point begin = Clock::now();
      const Tensor indices = batches_.Next();
      const double factor = LearningRateFactor(step, steps);
      TEQ_ASSIGN_OR_RETURN(const double value, task_.step(indices, [&](TrainableRange range) {
        course_.Move(range, step, factor);
      }));
      if (!std::isfinite(value)) {
        on_step(Sample(before + step, value, factor));
        return NotFinite(before + step, value);
      }
      TEQ_RETURN_IF_ERROR(model::EndStep(task_.device));
      const std::chrono::duration<double> elapsed = Clock::now() - begin;

      done_ = before + step;
      const bool measures = step % interval == 0 || step == steps;
      if (measures || done_ % told == 0 || done_ == 1) {
        teq::v1::LossPoint& point = result_.curve.emplace_back();
        point.set_step(done_);
        point.set_loss(value);
      }
      if (measures) {
        course_.ExchangeAverage();
        TEQ_ASSIGN_OR_RETURN(const double held_back, task_.held_back_loss());
        result_.curve.back().set_held_back_loss(held_back);
        best_.Offer(held_back, done_, course_);
        course_.ExchangeAverage();
      }
      teq::v1::MetricSample sample = Sample(done_, value, factor);
      sample.set_tokens_per_second(static_cast<double>(indices.numel() * task_.window_tokens) /
                                   elapsed.count());
      on_step(sample);
    }
    return absl::OkStatus();
  }

  /// Leaves the trainables at the best iterate.
  FitResult End() {
    course_.TakeBest();
    result_.final_loss = best_.loss;
    result_.best_step = best_.step;
    return std::move(result_);
  }

 private:
  [[nodiscard]] teq::v1::MetricSample Sample(int step, double loss, double factor) const {
    teq::v1::MetricSample sample;
    sample.set_step(step);
    sample.set_total_steps(task_.steps);
    sample.set_loss(loss);
    sample.set_learning_rate(factor * course_.FirstRate());
    *sample.mutable_observe_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
    return sample;
  }

  static absl::Status NotFinite(int step, double value) {
    return Error(
        absl::StatusCode::kAborted, "LOSS_NOT_FINITE",
        fmt::format("the loss is {} at step {}; lower every learning_rate of the recipe, and "
                    "check the model's weights",
                    value, step),
        {{"step", std::to_string(step)}});
  }

  const FitTask& task_;
  Course& course_;
  Batches batches_;
  Best best_;
  FitResult result_;
  int done_ = 0;  // steps
};

}  // namespace

double LearningRateFactor(int step, int steps) {
  const int warm_up = std::max(1, steps / 20);
  if (step <= warm_up) return static_cast<double>(step) / warm_up;
  return static_cast<double>(steps - step + 1) / (steps - warm_up + 1);
}

double AverageSteps(int steps) {
  constexpr double kEnough = 12;
  return std::max({1.0, steps / 20.0, std::min(kEnough, steps / 8.0)});
}

std::vector<std::int64_t> Shuffled(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 generator(seed);
  Shuffle(order, generator);
  return order;
}

absl::StatusOr<FitResult> Fit(const std::vector<Trainable>& trainables, const FitTask& task,
                              model::Scratch& scratch, const StepCallback& on_step,
                              const std::atomic<bool>& cancelled) {
  const model::AllFreedMemoryKept kept;
  TEQ_ASSIGN_OR_RETURN(Course course, Course::Start(trainables, scratch));
  Training training(task, course);
  TEQ_RETURN_IF_ERROR(training.Begin());
  {
    const GradientScope gradients(course);
    const auto steps_before = [&](int round) {
      return static_cast<int>(std::int64_t{task.steps} * round / task.rounds);
    };
    for (int round = 0; round < task.rounds; ++round) {
      TEQ_RETURN_IF_ERROR(training.RunRound(round, steps_before(round + 1) - steps_before(round),
                                            on_step, cancelled));
    }
  }
  return training.End();
}

}  // namespace teq::transform
