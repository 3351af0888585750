#pragma once

#include "torch/types.h"

namespace teq::model {

/// x W^T + b, differentiable. `input`: float32 [..., in]; `weight`: [out, in]; `bias`: [out], or
/// undefined. Returns float32 [..., out].
///
/// `type` bfloat16: factors and results of the product, and of those on the way back, are rounded
/// to it, sums are the processor's in float32. For training; what is measured and published takes
/// float32.
[[nodiscard]] torch::Tensor LinearProduct(const torch::Tensor& input, const torch::Tensor& weight,
                                          const torch::Tensor& bias, torch::ScalarType type);

}  // namespace teq::model
