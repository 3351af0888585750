#include "worker/engine/quant/scale_gradient.h"

#include <algorithm>
#include <vector>

#include "ATen/Parallel.h"
#include "worker/engine/quant/cpu_kernels.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/quant/range.h"

namespace teq::quant {
namespace {

using torch::Tensor;

/// Rows of one task: whole tasks' sums are added in order, so that a result does not depend on how
/// the threads were scheduled.
constexpr std::int64_t kRowsPerTask = 64;

/// What flows through the range back to each group's extremes; see FakeQuantize.
Tensor RangeGradient(const Tensor& groups, const Tensor& gradient, const Range& range,
                     const Tensor& inside, const Tensor& clamped, const Tensor& ratio,
                     const LayerGrid& grid) {
  const int levels = (1 << grid.bits) - 1;
  const Tensor per_scale = torch::where(inside, torch::round(ratio) - ratio, clamped - range.zero);
  Tensor scale = (gradient * per_scale).sum(-1, /*keepdim=*/true);
  Tensor result = torch::zeros_like(groups);
  if (grid.symmetric) {
    const Tensor largest = groups.abs().argmax(-1, /*keepdim=*/true);
    const Tensor sign = groups.gather(-1, largest).sign();
    return result.scatter_(-1, largest,
                           sign * scale / static_cast<double>((1 << (grid.bits - 1)) - 1));
  }
  const Tensor zero =
      (gradient * (~inside) * -range.scale).sum(-1, true) * (range.zero == range.free_zero);
  const Tensor smallest = groups.argmin(-1, /*keepdim=*/true);
  const Tensor largest = groups.argmax(-1, /*keepdim=*/true);
  const Tensor low = groups.gather(-1, smallest);
  const Tensor high = groups.gather(-1, largest);
  scale = scale + zero * low.clamp_max(0) / range.scale.square();
  result.scatter_add_(-1, largest, scale / levels * (high > 0));
  result.scatter_add_(-1, smallest, (-scale / levels - zero / range.scale) * (low < 0));
  return result;
}

cpu::Problem ProblemOf(const ScaledWeight& operand, const LayerGrid& grid) {
  return {.weight = operand.weight.data_ptr<float>(),
          .input_scale = operand.input_scale.data_ptr<float>(),
          .output_scale = operand.output_scale.data_ptr<float>(),
          .rows = operand.weight.size(0),
          .columns = operand.weight.size(1),
          .group_size = GroupSize(grid, operand.weight.size(1)),
          .bits = grid.bits,
          .symmetric = grid.symmetric};
}

}  // namespace

Tensor ScaledWeight::Value() const { return weight * input_scale / output_scale.unsqueeze(1); }

Tensor RoundOnCpu(const ScaledWeight& operand, const LayerGrid& grid) {
  const cpu::Problem problem = ProblemOf(operand, grid);
  Tensor output = torch::empty_like(operand.weight);
  at::parallel_for(0, problem.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    cpu::FakeQuantizeRows(problem, begin, end, output.data_ptr<float>());
  });
  return output;
}

ScaleGradients GradientOnAnyDevice(const ScaledWeight& operand, const Tensor& gradient,
                                   const LayerGrid& grid, bool full) {
  const Tensor& weight = operand.weight;
  const Tensor scaled = operand.Value();
  Tensor weight_gradient = gradient;
  if (full) {
    const std::int64_t group_size = GroupSize(grid, weight.size(1));
    const Tensor groups = scaled.view({weight.size(0), -1, group_size});
    const Tensor upstream = gradient.reshape_as(groups);
    const Range range = RangeOf(groups, grid);
    const Tensor ratio = groups / range.scale;
    const Tensor code = torch::round(ratio) + range.zero;
    const Tensor clamped = code.clamp(0, (1 << grid.bits) - 1);
    const Tensor inside = clamped == code;
    weight_gradient =
        (upstream * inside + RangeGradient(groups, upstream, range, inside, clamped, ratio, grid))
            .view_as(weight);
  }
  const Tensor product = weight_gradient * scaled;
  return {product.sum(0), product.sum(1)};
}

ScaleGradients GradientOnCpu(const ScaledWeight& operand, const Tensor& gradient,
                             const LayerGrid& grid, bool full) {
  const cpu::Problem problem = ProblemOf(operand, grid);
  const Tensor upstream = gradient.contiguous();
  const std::int64_t tasks = (problem.rows + kRowsPerTask - 1) / kRowsPerTask;
  const Tensor partial = torch::zeros({tasks, problem.columns});
  const Tensor rows = torch::empty({problem.rows});
  at::parallel_for(0, tasks, 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> scratch(static_cast<std::size_t>(2 * problem.columns));
    for (std::int64_t task = first; task < last; ++task) {
      cpu::FakeQuantizeGradientRows(problem, upstream.data_ptr<float>(), full, task * kRowsPerTask,
                                    std::min(problem.rows, (task + 1) * kRowsPerTask),
                                    partial.data_ptr<float>() + task * problem.columns,
                                    rows.data_ptr<float>(), scratch.data());
    }
  });
  return {partial.sum(0), rows};
}

}  // namespace teq::quant
