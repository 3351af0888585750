#pragma once

#include "proto/spec/validate.h"
#include "torch/types.h"
#include "worker/engine/quant/grid.h"

namespace teq::quant {

/// The range of every group of a weight matrix; see QuantizeToNearest.
struct Range {
  torch::Tensor scale;      // [out, groups, 1], float16 values in the weights' type
  torch::Tensor zero;       // the same shape, whole numbers from 1 to 2^b - 1
  torch::Tensor free_zero;  // before it was clamped
  torch::Tensor low;        // the clipped range, [out, groups, 1]; symmetric: undefined
};

/// `groups`: float32 or float64 [out, groups, group_size].
[[nodiscard]] Range RangeOf(const torch::Tensor& groups, const LayerGrid& grid,
                            const ClipFactors& clip = {});

}  // namespace teq::quant
