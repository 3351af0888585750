#include "worker/engine/quant/rounding.h"

#include <algorithm>
#include <vector>

#include "ATen/Parallel.h"
#include "worker/engine/quant/cpu_kernels.h"
#include "worker/engine/quant/range.h"
#ifdef TEQ_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "worker/engine/quant/cuda_kernels.h"
#endif

namespace teq::quant {
namespace {

using torch::Tensor;

/// Rows of one task: whole tasks' sums are added in order, so that a result does not depend on how
/// the threads were scheduled.
constexpr std::int64_t kRowsPerTask = 64;

/// What flows through the range: to each group's extremes, and to its clip factors.
struct RangeGradient {
  Tensor groups;
  ClipFactors clip;
};

RangeGradient ThroughRange(const Tensor& groups, const Tensor& scale_sum, const Tensor& zero_sum,
                           const Range& range, const ClipFactors& clip, const LayerGrid& grid) {
  const Tensor smallest = groups.argmin(-1, /*keepdim=*/true);
  const Tensor largest = groups.argmax(-1, /*keepdim=*/true);
  const Tensor min = groups.gather(-1, smallest).clamp_max(0);
  const Tensor max = groups.gather(-1, largest).clamp_min(0);
  const auto factor = [](const Tensor& factors, const Tensor& like) {
    return factors.defined() ? factors.unsqueeze(-1) : torch::ones_like(like);
  };
  const Tensor low_factor = factor(clip.low, min);
  const Tensor high_factor = factor(clip.high, max);
  Tensor low;  // dL/d(clipped range)
  Tensor high;
  if (grid.symmetric) {
    const Tensor scale = scale_sum / static_cast<double>((1 << (grid.bits - 1)) - 1);
    const Tensor from_high = max * high_factor >= -min * low_factor;
    high = scale * from_high;
    low = -scale * from_high.logical_not();
  } else {
    const Tensor zero = zero_sum * (range.zero == range.free_zero);
    high = (scale_sum + zero * range.low / range.scale.square()) /
           static_cast<double>((1 << grid.bits) - 1);
    low = -high - zero / range.scale;
  }
  Tensor result = torch::zeros_like(groups);
  result.scatter_add_(-1, largest, high * high_factor * (max > 0));
  result.scatter_add_(-1, smallest, low * low_factor * (min < 0));
  return {result, {(low * min).squeeze(-1), (high * max).squeeze(-1)}};
}

float* DataOrNull(const Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<float>() : nullptr;
}

Problem ProblemOf(const RoundingOperand& operand, const LayerGrid& grid) {
  return {.weight = operand.weight.data_ptr<float>(),
          .input_scale = operand.input_scale.data_ptr<float>(),
          .output_scale = operand.output_scale.data_ptr<float>(),
          .low_factor = DataOrNull(operand.adjustment.clip.low),
          .high_factor = DataOrNull(operand.adjustment.clip.high),
          .offset = DataOrNull(operand.adjustment.offset),
          .rows = operand.weight.size(0),
          .columns = operand.weight.size(1),
          .group_size = GroupSize(grid, operand.weight.size(1)),
          .bits = grid.bits,
          .symmetric = grid.symmetric};
}

Tensor ZerosLike(const Tensor& tensor) {
  return tensor.defined() ? torch::zeros_like(tensor) : Tensor();
}

#ifdef TEQ_WITH_CUDA
void CheckLaunch(const char* error) { TORCH_CHECK(error == nullptr, "fake quantization: ", error); }

Tensor RoundOnCuda(const RoundingOperand& operand, const LayerGrid& grid) {
  const c10::cuda::CUDAGuard guard(operand.weight.device());
  Tensor output = torch::empty_like(operand.weight);
  CheckLaunch(cuda::FakeQuantize(ProblemOf(operand, grid), output.data_ptr<float>(),
                                 c10::cuda::getCurrentCUDAStream()));
  return output;
}

RoundingGradients GradientOnCuda(const RoundingOperand& operand, const Tensor& upstream,
                                 const LayerGrid& grid, bool full) {
  const c10::cuda::CUDAGuard guard(operand.weight.device());
  const Problem problem = ProblemOf(operand, grid);
  const Tensor contiguous = upstream.contiguous();
  const std::int64_t blocks = (problem.rows + cuda::kRowsPerBlock - 1) / cuda::kRowsPerBlock;
  const Tensor columns = torch::zeros({blocks, problem.columns}, operand.weight.options());
  const Tensor rows =
      torch::empty({problem.rows, problem.columns / problem.group_size}, operand.weight.options());
  RoundingGradients result{
      {},
      {},
      {{ZerosLike(operand.adjustment.clip.low), ZerosLike(operand.adjustment.clip.high)},
       ZerosLike(operand.adjustment.offset)}};
  CheckLaunch(cuda::FakeQuantizeGradient(problem, contiguous.data_ptr<float>(), full,
                                         {.columns = DataOrNull(columns),
                                          .rows = DataOrNull(rows),
                                          .low_factor = DataOrNull(result.adjustment.clip.low),
                                          .high_factor = DataOrNull(result.adjustment.clip.high),
                                          .offset = DataOrNull(result.adjustment.offset)},
                                         c10::cuda::getCurrentCUDAStream()));
  result.columns = columns.sum(0);
  result.rows = rows.sum(1);
  return result;
}
#endif

}  // namespace

Tensor Round(const RoundingOperand& operand, const LayerGrid& grid) {
  if (operand.weight.is_cpu()) return RoundOnCpu(operand, grid);
#ifdef TEQ_WITH_CUDA
  if (operand.weight.is_cuda()) return RoundOnCuda(operand, grid);
#endif
  return Dequantize(QuantizeToNearest(operand.ScaledWeight(), grid, operand.adjustment));
}

RoundingGradients RoundingGradient(const RoundingOperand& operand, const Tensor& upstream,
                                   const LayerGrid& grid, bool full) {
  if (operand.weight.is_cpu()) return GradientOnCpu(operand, upstream, grid, full);
#ifdef TEQ_WITH_CUDA
  if (operand.weight.is_cuda()) return GradientOnCuda(operand, upstream, grid, full);
#endif
  return GradientOnAnyDevice(operand, upstream, grid, full);
}

Tensor RoundingOperand::ScaledWeight() const {
  return weight * input_scale / output_scale.unsqueeze(1);
}

Tensor RoundOnCpu(const RoundingOperand& operand, const LayerGrid& grid) {
  const Problem problem = ProblemOf(operand, grid);
  Tensor output = torch::empty_like(operand.weight);
  at::parallel_for(0, problem.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    cpu::FakeQuantizeRows(problem, begin, end, output.data_ptr<float>());
  });
  return output;
}

RoundingGradients GradientOnAnyDevice(const RoundingOperand& operand, const Tensor& upstream,
                                      const LayerGrid& grid, bool full) {
  const Adjustment& adjustment = operand.adjustment;
  const Tensor scaled = operand.ScaledWeight();
  const Tensor groups = scaled.view({scaled.size(0), -1, GroupSize(grid, scaled.size(1))});
  const Tensor by_group = upstream.reshape_as(groups);
  const Range range = RangeOf(groups, grid, adjustment.clip);
  Tensor inside = torch::ones_like(groups, torch::kBool);
  Tensor weight_gradient = by_group;
  RoundingGradients result{
      {}, {}, {{ZerosLike(adjustment.clip.low), ZerosLike(adjustment.clip.high)}, {}}};
  if (full) {
    const Tensor ratio = groups / range.scale;
    const Tensor rounded = torch::round(
        adjustment.offset.defined() ? ratio + adjustment.offset.view_as(ratio) : ratio);
    const Tensor code = rounded + range.zero;
    const Tensor clamped = code.clamp(0, (1 << grid.bits) - 1);
    inside = clamped == code;
    const Tensor per_scale = torch::where(inside, rounded - ratio, clamped - range.zero);
    const RangeGradient through =
        ThroughRange(groups, (by_group * per_scale).sum(-1, /*keepdim=*/true),
                     (by_group * inside.logical_not() * -range.scale).sum(-1, /*keepdim=*/true),
                     range, adjustment.clip, grid);
    weight_gradient = by_group * inside + through.groups;
    if (adjustment.clip.low.defined()) result.adjustment.clip.low = through.clip.low;
    if (adjustment.clip.high.defined()) result.adjustment.clip.high = through.clip.high;
  }
  if (adjustment.offset.defined()) {
    result.adjustment.offset = (by_group * inside * range.scale).view_as(scaled);
  }
  const Tensor product = weight_gradient.view_as(scaled) * scaled;
  result.columns = product.sum(0);
  result.rows = product.sum(1);
  return result;
}

RoundingGradients GradientOnCpu(const RoundingOperand& operand, const Tensor& upstream,
                                const LayerGrid& grid, bool full) {
  const Problem problem = ProblemOf(operand, grid);
  const Tensor contiguous = upstream.contiguous();
  const std::int64_t tasks = (problem.rows + kRowsPerTask - 1) / kRowsPerTask;
  const Tensor partial = torch::zeros({tasks, problem.columns});
  RoundingGradients result{
      {},
      torch::empty({problem.rows}),
      {{ZerosLike(operand.adjustment.clip.low), ZerosLike(operand.adjustment.clip.high)},
       ZerosLike(operand.adjustment.offset)}};
  cpu::Gradients gradients{.rows = DataOrNull(result.rows),
                           .low_factor = DataOrNull(result.adjustment.clip.low),
                           .high_factor = DataOrNull(result.adjustment.clip.high),
                           .offset = DataOrNull(result.adjustment.offset)};
  at::parallel_for(0, tasks, 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> scratch(static_cast<std::size_t>(2 * problem.columns));
    cpu::Gradients own = gradients;
    for (std::int64_t task = first; task < last; ++task) {
      own.columns = partial.data_ptr<float>() + task * problem.columns;
      cpu::FakeQuantizeGradientRows(
          problem, contiguous.data_ptr<float>(), full, task * kRowsPerTask,
          std::min(problem.rows, (task + 1) * kRowsPerTask), own, scratch.data());
    }
  });
  result.columns = partial.sum(0);
  return result;
}

}  // namespace teq::quant
