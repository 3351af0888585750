#pragma once

#include "proto/spec/validate.h"
#include "torch/types.h"

namespace teq::quant {

/// W * input_scale / output_scale. `weight`: float32 [out, in]; `input_scale`: [in];
/// `output_scale`: [out]. Contiguous.
struct ScaledWeight {
  torch::Tensor weight;
  torch::Tensor input_scale;
  torch::Tensor output_scale;

  [[nodiscard]] torch::Tensor Value() const;
};

/// dL/dlog(input_scale) [in] and -dL/dlog(output_scale) [out]: sums of dL/dv * v, v the scaled
/// weights.
struct ScaleGradients {
  torch::Tensor columns;
  torch::Tensor rows;
};

/// Dequantize(QuantizeToNearest(operand.Value(), grid)) in one fused pass on the host.
[[nodiscard]] torch::Tensor RoundOnCpu(const ScaledWeight& operand, const LayerGrid& grid);

/// The gradients of the scales, from `gradient` [out, in] with respect to the rounded weights; see
/// FakeQuantize for `full`. Fused on the host, and with LibTorch's operators on any device.
[[nodiscard]] ScaleGradients GradientOnCpu(const ScaledWeight& operand,
                                           const torch::Tensor& gradient, const LayerGrid& grid,
                                           bool full);
[[nodiscard]] ScaleGradients GradientOnAnyDevice(const ScaledWeight& operand,
                                                 const torch::Tensor& gradient,
                                                 const LayerGrid& grid, bool full);

}  // namespace teq::quant
