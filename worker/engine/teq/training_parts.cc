#include "worker/engine/teq/training_parts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "proto/spec/error.h"
#include "worker/engine/teq/fold.h"

namespace teq::transform {
namespace {

using torch::Tensor;

// Factors of clipping and of step sizes stay in this range: above 1 the grid reaches beyond the
// weights, which may still fit them better.
constexpr double kSmallestFactor = 0.1;
constexpr double kLargestFactor = 1.25;

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
    const std::array factors = {std::pair{adjustment.clip.low, task.rates.clipping},
                                std::pair{adjustment.clip.high, task.rates.clipping},
                                std::pair{adjustment.step_factor, task.rates.step_sizes}};
    for (const auto& [factor, rate] : factors) {
      if (!factor.defined()) continue;
      trainables.push_back({.value = factor,
                            .learning_rate = rate,
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

/// Routers and gates of one output choose and weigh, and stay exact.
void SetProducts(model::Block& block, torch::ScalarType products) {
  for (model::Linear& linear : block.linears) {
    if (linear.layer.quantizable) linear.products = products;
  }
}

}  // namespace

Split SplitWindows(const TrainingTask& task) {
  const std::int64_t count = task.windows.count;
  const auto held = std::clamp<std::int64_t>(
      std::llround(task.schedule.held_back_fraction() * static_cast<double>(count)), 1, count - 1);
  std::vector<std::int64_t> order = Shuffled(count, static_cast<std::uint64_t>(task.seed));
  const auto middle = order.begin() + held;
  return {{middle, order.end()},
          torch::tensor(std::vector<std::int64_t>(order.begin(), middle), torch::kInt64)};
}

absl::Status AddTrainables(const TrainingTask& task, const model::Block& block,
                           BlockAdjustments& adjustments) {
  const BlockGrids& grids = task.grids[static_cast<std::size_t>(block.number)];
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    if (!grids[i].quantized) continue;
    const Tensor& weight = block.linears[i].weight;
    quant::Adjustment& adjustment = adjustments[i];
    const std::int64_t groups = weight.size(1) / quant::GroupSize(grids[i], weight.size(1));
    const auto add = [&](double rate, torch::IntArrayRef shape, double start, Tensor& tensor) {
      if (rate == 0 || tensor.defined()) return absl::OkStatus();
      TEQ_ASSIGN_OR_RETURN(tensor, task.scratch.Zeros(shape, torch::kFloat32, weight.device()));
      if (start != 0) tensor.fill_(start);
      return absl::OkStatus();
    };
    const double clipping = task.rates.clipping;
    TEQ_RETURN_IF_ERROR(add(clipping, {weight.size(0), groups}, 1, adjustment.clip.low));
    TEQ_RETURN_IF_ERROR(add(clipping, {weight.size(0), groups}, 1, adjustment.clip.high));
    TEQ_RETURN_IF_ERROR(
        add(task.rates.step_sizes, {weight.size(0), groups}, 1, adjustment.step_factor));
    TEQ_RETURN_IF_ERROR(add(task.rates.rounding, weight.sizes(), 0, adjustment.offset));
  }
  return absl::OkStatus();
}

std::vector<Trainable> BlockTrainables(const TrainingTask& task, const Parameters& parameters,
                                       std::size_t block) {
  std::vector<Trainable> trainables;
  AddScales(task, parameters, block, trainables);
  AddAdjustments(task, parameters, block, trainables);
  return trainables;
}

void CountTrainables(const TrainingTask& task, const Parameters& parameters,
                     teq::v1::Training& report) {
  std::int64_t scales = 0;
  std::int64_t clipping = 0;
  std::int64_t step_sizes = 0;
  std::int64_t rounding = 0;
  const auto size = [](const Tensor& tensor) { return tensor.defined() ? tensor.numel() : 0; };
  for (const Tensor& tensor : parameters.log_scales) scales += tensor.numel();
  for (const BlockAdjustments& block : parameters.adjustments) {
    for (const quant::Adjustment& layer : block) {
      clipping += size(layer.clip.low) + size(layer.clip.high);
      step_sizes += size(layer.step_factor);
      rounding += size(layer.offset);
    }
  }
  teq::v1::TrainableParameters& counts = *report.mutable_trainable_parameters();
  if (task.rates.scales > 0) counts.set_scales(scales);
  if (task.rates.clipping > 0) counts.set_clipping(clipping);
  if (task.rates.step_sizes > 0) counts.set_step_sizes(step_sizes);
  if (task.rates.rounding > 0) counts.set_rounding(rounding);
}

model::Block StudentBlock(const TrainingTask& task, const Parameters& parameters,
                          const model::Block& block, torch::ScalarType products) {
  const auto number = static_cast<std::size_t>(block.number);
  model::Block student = FakeQuantizeBlock(
      block,
      ResolveScales(block, task.decoder.config.norm, task.groups, parameters.log_scales,
                    task.stored),
      task.grids[number], parameters.adjustments[number], task.schedule.gradient());
  SetProducts(student, products);
  return student;
}

void KeepMargin(const TrainingTask& task, const model::Block& block, const Parameters& parameters) {
  const torch::NoGradGuard no_gradient;
  const auto number = static_cast<std::size_t>(block.number);
  const model::Block folded =
      FoldBlock(block, ResolveScales(block, task.decoder.config.norm, task.groups,
                                     parameters.log_scales, task.stored));
  for (std::size_t i = 0; i < folded.linears.size(); ++i) {
    const quant::Adjustment& adjustment = parameters.adjustments[number][i];
    Tensor offset = adjustment.offset;
    if (!offset.defined()) continue;
    offset.copy_(quant::OffsetsWithMargin(folded.linears[i].weight, task.grids[number][i],
                                          adjustment, task.rounding_margin));
    task.scratch.Release(offset);
  }
}

double Descend(const Tensor& loss, TrainableRange range, const GradientsReady& ready) {
  const auto value = loss.item<double>();
  if (!std::isfinite(value)) return value;
  if (loss.requires_grad()) loss.backward();
  ready(range);
  return value;
}

}  // namespace teq::transform
