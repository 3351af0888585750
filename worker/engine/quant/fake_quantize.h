#pragma once

#include "proto/spec/validate.h"
#include "teq/v1/recipe.pb.h"
#include "torch/types.h"
#include "worker/engine/quant/grid.h"

namespace teq::quant {

/// Dequantize(QuantizeToNearest(W * input_scale / output_scale, grid, adjustment)), differentiable
/// in the scales and the adjustment.
///
/// `weight`: float32 [out, in], no gradient. `input_scale`: [in], `output_scale`: [out], positive;
/// either may be undefined for ones. The result equals the two-step computation bit by bit, but for
/// float16's rounding of a scale times its step factor, which is left out here.
///
/// FULL, with v the scaled weights, V the offsets and c = clamp(round(v/s + V) + z): where c is not
/// clamped dQ/dv = 1, dQ/dV = s and dQ/ds = round(v/s + V) - v/s; where it is, dQ/ds = c - z, dQ/dz
/// = -s and the others vanish; s and z pass their gradients on to the clip factors and the group's
/// largest and smallest weight (LSQ, arXiv 1902.08153; OmniQuant, arXiv 2308.13137; AutoRound,
/// arXiv 2309.05516). Rounding of s to float16 and of z is passed straight through; a clamped z
/// passes none. A step factor gets the gradient of what it multiplies, with all codes as they are
/// (EfficientQAT, arXiv 2407.11062). STRAIGHT_THROUGH: dQ/dv = 1 and dQ/dV = s everywhere and
/// nothing else but that, as the TEQ paper's implementation.
[[nodiscard]] torch::Tensor FakeQuantize(const torch::Tensor& weight,
                                         const torch::Tensor& input_scale,
                                         const torch::Tensor& output_scale,
                                         const Adjustment& adjustment, const LayerGrid& grid,
                                         teq::v1::Gradient gradient);

}  // namespace teq::quant
