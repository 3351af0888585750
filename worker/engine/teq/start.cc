#include "worker/engine/teq/start.h"

#include <algorithm>
#include <cmath>

#include "worker/engine/quant/grid.h"

namespace teq::transform {
namespace {

using torch::Tensor;

constexpr int kExponents = 20;
// Channels that are never active, or columns of zeros, keep a finite logarithm.
constexpr double kSmallestMagnitude = 1e-4;

std::size_t Input(const model::Block& block, std::size_t layer) {
  return static_cast<std::size_t>(block.linears[layer].layer.input);
}

/// Logarithm with geometric mean 1; magnitudes far below the typical one are raised.
Tensor CenteredLog(const Tensor& magnitude) {
  const Tensor floor = magnitude.mean() * kSmallestMagnitude + 1e-30;
  const Tensor log = torch::maximum(magnitude, floor).log();
  return log - log.mean();
}

Tensor MeanColumnMagnitude(const ScaleGroup& group, const model::Block& block) {
  Tensor sum;
  std::int64_t rows = 0;
  for (const std::size_t consumer : group.consumers) {
    const Tensor& weight = block.linears[consumer].weight;
    const Tensor column = weight.abs().sum(0);
    sum = sum.defined() ? sum + column : column;
    rows += weight.size(0);
  }
  return ProducerMean(group, sum / static_cast<double>(rows));
}

/// AWQ's weight magnitude: |w * scale| relative to the largest of its quantization group, mean over
/// rows.
Tensor MeanRelativeMagnitude(const ScaleGroup& group, const model::Block& block,
                             const BlockGrids& grids, const Tensor& scale) {
  Tensor sum;
  std::int64_t rows = 0;
  for (const std::size_t consumer : group.consumers) {
    const Tensor weight = block.linears[consumer].weight * scale;
    const std::int64_t group_size = grids[consumer].quantized
                                        ? quant::GroupSize(grids[consumer], weight.size(1))
                                        : weight.size(1);
    const Tensor groups = weight.abs().view({weight.size(0), -1, group_size});
    const Tensor relative = groups / groups.amax(-1, /*keepdim=*/true).clamp_min(1e-30);
    const Tensor column = relative.view_as(weight).sum(0);
    sum = sum.defined() ? sum + column : column;
    rows += weight.size(0);
  }
  return ProducerMean(group, sum / static_cast<double>(rows));
}

/// Output error of the group's rounded consumers under the scales.
double RoundedError(const ScaleGroup& group, const model::Block& block, const BlockGrids& grids,
                    const BlockStatistics& statistics, const Tensor& log_scale) {
  const Tensor scale = ConsumerScale(group, log_scale.exp());
  double error = 0;
  for (const std::size_t consumer : group.consumers) {
    const LayerGrid& grid = grids[consumer];
    if (!grid.quantized) continue;
    const Tensor& weight = block.linears[consumer].weight;
    const Tensor rounded =
        quant::Dequantize(quant::QuantizeToNearest(weight * scale, grid)) / scale;
    const InputStatistics& input = statistics[Input(block, consumer)];
    // A sum over tokens: an expert weighs by how many it reads.
    error += OutputError(input, rounded - weight) * static_cast<double>(input.tokens);
  }
  return error;
}

/// AWQ's search, relative to `weight_norm`: in those coordinates all columns are alike, so that the
/// result does not depend on how a model's channels happen to be scaled.
Tensor SearchAwq(const ScaleGroup& group, const model::Block& block, const BlockGrids& grids,
                 const BlockStatistics& statistics, const Tensor& weight_norm) {
  const Tensor activation =
      CenteredLog(ProducerMean(group, statistics[Input(block, group.consumers.front())].mean_abs) /
                  weight_norm.exp());
  const Tensor relative = CenteredLog(
      MeanRelativeMagnitude(group, block, grids, ConsumerScale(group, weight_norm.exp())));
  std::vector<Tensor> candidates = {weight_norm};
  for (int i = 0; i < kExponents; ++i) {
    const double exponent = static_cast<double>(i) / kExponents;
    if (i > 0) candidates.push_back(weight_norm + activation * exponent);
    candidates.push_back(weight_norm + activation * exponent - relative * (1 - exponent));
  }
  Tensor best;
  double best_error = 0;
  for (const Tensor& candidate : candidates) {
    const double error = RoundedError(group, block, grids, statistics, candidate);
    if (std::isfinite(error) && (!best.defined() || error < best_error)) {
      best = candidate;
      best_error = error;
    }
  }
  return best.defined() ? best : candidates.front();
}

}  // namespace

Tensor StartingScales(teq::v1::Initialization init, const ScaleGroup& group,
                      const model::Block& block, const BlockGrids& grids,
                      const BlockStatistics& statistics) {
  const torch::NoGradGuard no_gradient;
  // Layers that read nothing, as experts may, are best left to plain rounding.
  const bool unread = std::ranges::all_of(group.consumers, [&](std::size_t consumer) {
    return statistics[Input(block, consumer)].tokens == 0;
  });
  if (unread || init == teq::v1::INITIALIZATION_ONES) {
    return torch::zeros({group.width}, block.linears.front().weight.options());
  }
  const Tensor weight_norm = -CenteredLog(MeanColumnMagnitude(group, block));
  if (init == teq::v1::INITIALIZATION_WEIGHT_NORM) return weight_norm;
  return SearchAwq(group, block, grids, statistics, weight_norm);
}

}  // namespace teq::transform
