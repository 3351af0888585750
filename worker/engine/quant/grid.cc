#include "worker/engine/quant/grid.h"

#include <cmath>
#include <limits>

#include "worker/engine/quant/range.h"
#include "worker/engine/quant/rounding_math.h"

namespace teq::quant {

using torch::Tensor;

std::int64_t GroupSize(const LayerGrid& grid, std::int64_t in) {
  return grid.group_size < 0 ? in : grid.group_size;
}

Range RangeOf(const Tensor& groups, const LayerGrid& grid, const ClipFactors& clip) {
  const int levels = (1 << grid.bits) - 1;
  // As a tensor on the device: by a number of the host's, CUDA's operators multiply with its
  // reciprocal, which rounds differently.
  const Tensor steps =
      torch::full({}, grid.symmetric ? (1 << (grid.bits - 1)) - 1 : levels, groups.options());
  Tensor low = groups.amin(-1, /*keepdim=*/true).clamp_max(0);
  Tensor high = groups.amax(-1, /*keepdim=*/true).clamp_min(0);
  if (clip.low.defined()) low = low * clip.low.unsqueeze(-1);
  if (clip.high.defined()) high = high * clip.high.unsqueeze(-1);
  Tensor scale;
  if (grid.symmetric) {
    const Tensor largest = torch::maximum(-low, high);
    scale = torch::where(largest == 0, torch::ones_like(largest), largest) / steps;
  } else {
    const Tensor empty = (low == 0) & (high == 0);
    low = low.masked_fill(empty, -1);
    high = high.masked_fill(empty, 1);
    scale = (high - low) / steps;
  }
  // Float16's range: below its smallest number a scale would be stored as 0.
  scale = scale.to(torch::kFloat16).to(groups.scalar_type()).clamp_min(kSmallestScale);
  if (grid.symmetric) {
    const Tensor zero = torch::full_like(scale, static_cast<double>(1 << (grid.bits - 1)));
    return {scale, zero, zero, {}};
  }
  const Tensor zero = torch::round(-low / scale);
  return {scale, zero.clamp(1, levels), zero, low};
}

Quantized QuantizeToNearest(const Tensor& weight, const LayerGrid& grid,
                            const Adjustment& adjustment) {
  const std::int64_t group_size = GroupSize(grid, weight.size(1));
  const Tensor groups = weight.reshape({weight.size(0), -1, group_size});
  const Range range = RangeOf(groups, grid, adjustment.clip);
  Tensor ratio = groups / range.scale;
  if (adjustment.offset.defined()) ratio = ratio + adjustment.offset.view_as(ratio);
  const Tensor codes = (torch::round(ratio) + range.zero).clamp(0, (1 << grid.bits) - 1);
  Tensor scale = range.scale.squeeze(-1);
  if (adjustment.step_factor.defined()) {
    scale = (scale * adjustment.step_factor).clamp_min(kSmallestScale);
  }
  return {codes.to(torch::kUInt8).view_as(weight), scale.to(torch::kFloat16),
          range.zero.squeeze(-1).to(torch::kUInt8), grid.bits};
}

Tensor OffsetsWithMargin(const Tensor& weight, const LayerGrid& grid, const Adjustment& adjustment,
                         double margin) {
  const Tensor groups = weight.reshape({weight.size(0), -1, GroupSize(grid, weight.size(1))});
  const Tensor ratio = groups / RangeOf(groups, grid, adjustment.clip).scale;
  const Tensor shifted = ratio + adjustment.offset.view_as(ratio);
  const Tensor rounded = torch::round(shifted);
  const Tensor inside = (shifted - rounded).clamp(margin - 0.5, 0.5 - margin);
  return (rounded + inside - ratio).clamp(-0.5, 0.5).view_as(weight);
}

Tensor NearestCodes(const Tensor& weight, const Quantized& quantized) {
  const Tensor groups = weight.reshape({weight.size(0), quantized.scales.size(1), -1});
  const Tensor codes =
      torch::round(groups / quantized.scales.unsqueeze(-1).to(weight.scalar_type())) +
      quantized.zeros.unsqueeze(-1).to(weight.scalar_type());
  return codes.clamp(0, (1 << quantized.bits) - 1).to(torch::kUInt8).view_as(weight);
}

Tensor Dequantize(const Quantized& quantized) {
  const std::int64_t rows = quantized.codes.size(0);
  const Tensor codes =
      quantized.codes.view({rows, quantized.scales.size(1), -1}).to(torch::kFloat32);
  const Tensor weight = (codes - quantized.zeros.unsqueeze(-1).to(torch::kFloat32)) *
                        quantized.scales.unsqueeze(-1).to(torch::kFloat32);
  return weight.view_as(quantized.codes);
}

}  // namespace teq::quant
