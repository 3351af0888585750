#pragma once

#include "proto/spec/validate.h"
#include "teq/v1/recipe.pb.h"
#include "torch/types.h"

namespace teq::quant {

/// Dequantize(QuantizeToNearest(W * input_scale / output_scale)), differentiable in the two scales.
///
/// `weight`: float32 [out, in], no gradient. `input_scale`: [in], `output_scale`: [out], positive;
/// either may be undefined for ones. The result equals the two-step computation bit by bit.
///
/// FULL, with v the scaled weights and c = clamp(round(v/s) + z): where c is not clamped dQ/dv = 1
/// and dQ/ds = round(v/s) - v/s; where it is, dQ/ds = c - z and dQ/dz = -s; s and z pass their
/// gradients on to the group's largest and smallest weight (LSQ, arXiv 1902.08153; OmniQuant, arXiv
/// 2308.13137). Rounding of s to float16 and of z is passed straight through; a clamped z passes
/// none. STRAIGHT_THROUGH: dQ/dv = 1 everywhere and nothing else, as the TEQ paper's
/// implementation.
[[nodiscard]] torch::Tensor FakeQuantize(const torch::Tensor& weight,
                                         const torch::Tensor& input_scale,
                                         const torch::Tensor& output_scale, const LayerGrid& grid,
                                         teq::v1::Gradient gradient);

}  // namespace teq::quant
