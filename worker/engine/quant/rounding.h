#pragma once

#include "proto/spec/validate.h"
#include "torch/types.h"
#include "worker/engine/quant/grid.h"

namespace teq::quant {

/// W * input_scale / output_scale, and how it is rounded. `weight`: float32 [out, in];
/// `input_scale`: [in]; `output_scale`: [out]. Contiguous, the adjustment's tensors too.
struct RoundingOperand {
  torch::Tensor weight;
  torch::Tensor input_scale;
  torch::Tensor output_scale;
  Adjustment adjustment;

  [[nodiscard]] torch::Tensor ScaledWeight() const;
};

/// Gradients with respect to what is trained. With v the scaled weights, `columns` [in] and `rows`
/// [out] are sums of dL/dv * v: dL/dlog(input_scale) and -dL/dlog(output_scale). The adjustment's
/// are undefined where it is.
struct RoundingGradients {
  torch::Tensor columns;
  torch::Tensor rows;
  Adjustment adjustment;
};

/// Dequantize(QuantizeToNearest(operand)) without a step factor, where its tensors are: in one
/// fused pass on the host and, in builds with CUDA, on a GPU; elsewhere by LibTorch's operators.
[[nodiscard]] torch::Tensor Round(const RoundingOperand& operand, const LayerGrid& grid);

/// The gradients from `upstream` [out, in], that of the rounded weights; see FakeQuantize for
/// `full`. Fused where Round is.
[[nodiscard]] RoundingGradients RoundingGradient(const RoundingOperand& operand,
                                                 const torch::Tensor& upstream,
                                                 const LayerGrid& grid, bool full);

/// What the two are made of.
[[nodiscard]] torch::Tensor RoundOnCpu(const RoundingOperand& operand, const LayerGrid& grid);

[[nodiscard]] RoundingGradients GradientOnCpu(const RoundingOperand& operand,
                                              const torch::Tensor& upstream, const LayerGrid& grid,
                                              bool full);
[[nodiscard]] RoundingGradients GradientOnAnyDevice(const RoundingOperand& operand,
                                                    const torch::Tensor& upstream,
                                                    const LayerGrid& grid, bool full);

}  // namespace teq::quant
