#include "client/model_info/cost.h"

#include <algorithm>
#include <cmath>

#include "client/model_info/run_sizes.h"
#include "client/model_info/workload.h"
#include "proto/spec/recipe.h"

namespace teq::model_info {
namespace {

using teq::v1::JobSpec;

// A weight as it is read and as it becomes: half precision to float32.
constexpr double kLoadBytes = 2 + 4;
// A training step passes over every weight of the block: the rounded weights forward and their
// gradients backward; and over all that is trained: gradient, moments, average, clamping.
constexpr double kStepBytes = 16;
constexpr double kTrainedStepBytes = 40;
// Held-back losses: plain rounding, the start, and ten on the way; a few more where rounds end.
constexpr double kHeldBackMeasurements = 12;
// Candidates of AWQ's and of the clipping's search.
constexpr double kScaleCandidates = 40;
constexpr double kClipCandidates = 32;
// Passes over a layer's weights that each candidate's rounding takes.
constexpr double kCandidateBytes = 16;
// How often a block runs where GPTQ goes through it: once a step, and once rounded.
constexpr double kGptqRuns = kSteps + 1;
// Of the windows that target_bits measures every layer with.
constexpr double kSensitivityTokens = 2048;

class Costs {
 public:
  Costs(const JobSpec& spec, const std::vector<PlannedLayer>& plan, const Workload& work,
        const MemoryPlan& memory, std::int64_t evaluation_tokens)
      : recipe_(spec.recipe()),
        plan_(plan),
        work_(work),
        memory_(memory),
        schedule_(ScheduleOf(spec.recipe())),
        formats_(spec.output().formats()),
        evaluation_tokens_(static_cast<double>(evaluation_tokens)),
        calibration_tokens_(static_cast<double>(work.calibration_tokens)),
        weights_(static_cast<double>(work.total.parameters)) {}

  [[nodiscard]] std::vector<StageCost> All() const {
    return {{teq::v1::STAGE_FETCH, 0, 2 * static_cast<double>(work_.parameters)},
            Baseline(),
            Calibrate(),
            Transform(),
            Round(),
            Pack(),
            Verify(),
            {teq::v1::STAGE_PUBLISH, 0, 0}};
  }

 private:
  /// Blocks alone: their layers' products, and attention's.
  [[nodiscard]] double Layers(double tokens) const {
    return 2 * tokens * static_cast<double>(work_.total.active);
  }
  [[nodiscard]] double Attention(double tokens, std::int64_t window) const {
    return 2 * tokens * static_cast<double>(window * work_.blocks * work_.heads * work_.head_size);
  }
  [[nodiscard]] double Forward(double tokens, std::int64_t window) const {
    return Layers(tokens) + Attention(tokens, window);
  }
  [[nodiscard]] double Head(double tokens) const {
    return 2 * tokens * static_cast<double>(work_.vocabulary * work_.embedding);
  }
  /// Of one model through all chunks of the texts.
  void AddMeasurement(double models, StageCost& cost) const {
    const double chunks = std::ceil(evaluation_tokens_ / static_cast<double>(kChunkTokens));
    cost.operations +=
        models * (Forward(evaluation_tokens_, work_.evaluation_window) + Head(evaluation_tokens_));
    cost.moved_bytes += models * chunks * weights_ * kLoadBytes;
  }
  [[nodiscard]] double StateTraffic() const {
    return 2 * 4.0 * calibration_tokens_ * static_cast<double>(work_.blocks * work_.hidden);
  }
  [[nodiscard]] double Grams() const {
    return 2 * calibration_tokens_ * static_cast<double>(work_.total.grams);
  }
  [[nodiscard]] double Rounded() const { return static_cast<double>(work_.total.quantized); }
  [[nodiscard]] double Trained() const {
    return (recipe_.rounding().has_learned() ? Rounded() : 0) +
           (recipe_.clipping().has_learned() ? 2.0 * static_cast<double>(work_.total.groups) : 0);
  }

  /// The float model, and plain rounding.
  [[nodiscard]] StageCost Baseline() const {
    StageCost cost{teq::v1::STAGE_BASELINE_EVAL};
    AddMeasurement(2, cost);
    if (!recipe_.weights().has_target_bits()) return cost;
    // Each set at each width, from its block on.
    const auto runs = static_cast<double>(kCodeWidths.size() * OpenSets(recipe_, plan_).size());
    const double tokens = std::min(kSensitivityTokens, calibration_tokens_);
    cost.operations += runs * (Forward(tokens, work_.window) / 2 + Head(tokens));
    cost.moved_bytes += runs * weights_ / 2 * kLoadBytes;
    return cost;
  }

  [[nodiscard]] StageCost Calibrate() const {
    if (!Calibrates(recipe_)) return {teq::v1::STAGE_CALIBRATE};
    StageCost cost{teq::v1::STAGE_CALIBRATE, Forward(calibration_tokens_, work_.window) + Grams(),
                   weights_ * kLoadBytes + StateTraffic()};
    const teq::v1::Transform& transform = recipe_.transform();
    if (transform.has_awq() || transform.teq().init() == teq::v1::INITIALIZATION_AWQ) {
      cost.operations += kScaleCandidates * 2 * work_.total.gram_products;
      cost.moved_bytes += kScaleCandidates * kCandidateBytes * Rounded();
    }
    if (SearchesClipping(recipe_)) {
      cost.operations += kClipCandidates * 2 * work_.total.group_products;
      cost.moved_bytes += kClipCandidates * kCandidateBytes * Rounded();
    }
    return cost;
  }

  [[nodiscard]] StageCost Transform() const {
    StageCost cost{teq::v1::STAGE_TRANSFORM};
    if (!Trains(recipe_)) return cost;
    const bool by_block = schedule_.objective() == teq::v1::OBJECTIVE_BLOCK_MSE;
    if (by_block) {
      AddSteps(schedule_.steps(), 3, cost);
      cost.operations += 2 * Forward(calibration_tokens_, work_.window);
      cost.moved_bytes += weights_ * kLoadBytes + 2 * StateTraffic();
    }
    const int steps = by_block ? schedule_.end_to_end_steps() : schedule_.steps();
    if (steps == 0 || memory_.end_to_end_pass == teq::v1::END_TO_END_PASS_LEFT_OUT) return cost;
    const bool again = memory_.end_to_end_pass == teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK;
    AddSteps(steps, again ? 4 : 3, cost);
    // The head forward and backward, and the teacher's forward.
    const double learnt = steps * StepTokens() + kHeldBackMeasurements * HeldBackTokens();
    cost.operations += 3 * Head(learnt) + Forward(calibration_tokens_, work_.window);
    if (again) cost.moved_bytes += steps * (2 * weights_ * kLoadBytes + 2 * 4 * Trained() * 4);
    if (schedule_.redrawn_fraction() > 0) AddRedrawing(steps, again, cost);
    return cost;
  }

  [[nodiscard]] double StepTokens() const {
    return static_cast<double>(schedule_.batch_size() * work_.window);
  }
  [[nodiscard]] double HeldBackTokens() const {
    return schedule_.held_back_fraction() * calibration_tokens_;
  }
  /// A step costs `passes` forward ones; backward counts as two.
  void AddSteps(int steps, double passes, StageCost& cost) const {
    const double tokens = passes * steps * StepTokens();
    const bool bfloat16 = schedule_.compute_type() == teq::v1::COMPUTE_TYPE_BFLOAT16;
    (bfloat16 ? cost.bfloat16_operations : cost.operations) += Layers(tokens);
    cost.operations += Attention(tokens, work_.window) +
                       Forward(kHeldBackMeasurements * HeldBackTokens(), work_.window);
    cost.moved_bytes += steps * (kStepBytes * weights_ + kTrainedStepBytes * Trained());
  }

  /// The float model predicts, and then teaches what was drawn.
  void AddRedrawing(int steps, bool reads_blocks, StageCost& cost) const {
    const double drawing = steps * std::min(1.0, schedule_.redrawn_fraction() / kDrawnOfStep);
    const double tokens = drawing * StepTokens();
    cost.operations += 2 * Forward(tokens, work_.window) +
                       (1 + std::max(kDrawnOfStep, schedule_.redrawn_fraction())) * Head(tokens);
    if (reads_blocks) cost.moved_bytes += drawing * 2 * weights_ * kLoadBytes;
  }

  [[nodiscard]] StageCost Round() const {
    const bool gptq = recipe_.rounding().has_gptq();
    StageCost cost{
        teq::v1::STAGE_ROUND,
        (gptq ? 1 + kGptqRuns : 1) * Forward(calibration_tokens_, work_.window) +
            (gptq ? 2 : 1) * Grams(),
        weights_ * kLoadBytes + (gptq ? 2 : 1) * StateTraffic() + 2 * kCandidateBytes * Rounded()};
    // The output's error by layer, of the result and of plain rounding.
    cost.operations += 2 * 2 * work_.total.gram_products;
    if (gptq) cost.operations += work_.total.gram_products + 4.0 / 3 * work_.total.cubes;
    return cost;
  }

  [[nodiscard]] StageCost Pack() const {
    const double floats = static_cast<double>(work_.parameters) - Rounded();
    return {teq::v1::STAGE_PACK, 0, formats_.size() * (4 * Rounded() + 4 * floats)};
  }

  /// Formats that hold exactly what was rounded are measured once.
  [[nodiscard]] StageCost Verify() const {
    StageCost cost{teq::v1::STAGE_VERIFY, 0, formats_.size() * kCandidateBytes * weights_};
    double measured = 1;
    for (int i = 1; i < formats_.size(); ++i) {
      if (formats_[i] == teq::v1::FORMAT_GGUF || formats_[i] == teq::v1::FORMAT_DEQUANTIZED) {
        ++measured;
      }
    }
    AddMeasurement(2 * measured, cost);
    return cost;
  }

  const teq::v1::Recipe& recipe_;
  const std::vector<PlannedLayer>& plan_;
  const Workload& work_;
  const MemoryPlan& memory_;
  const teq::v1::Schedule schedule_;
  const google::protobuf::RepeatedField<int>& formats_;
  const double evaluation_tokens_;
  const double calibration_tokens_;
  const double weights_;
};

}  // namespace

std::vector<StageCost> CostOf(const JobSpec& spec, const ModelConfig& config,
                              const std::vector<PlannedLayer>& plan, const MemoryPlan& memory,
                              std::int64_t evaluation_tokens) {
  const Workload work = WorkloadOf(spec, config, plan);
  return Costs(spec, plan, work, memory, evaluation_tokens).All();
}

double SecondsOf(const StageCost& cost, const teq::v1::DeviceCalibration& device) {
  if (device.operations_per_second() <= 0 || device.copied_bytes_per_second() <= 0) return 0;
  const double bfloat16 =
      std::max(device.operations_per_second(), device.bfloat16_operations_per_second());
  return cost.operations / device.operations_per_second() + cost.bfloat16_operations / bfloat16 +
         cost.moved_bytes / device.copied_bytes_per_second();
}

}  // namespace teq::model_info
