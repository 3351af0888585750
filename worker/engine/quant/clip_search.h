#pragma once

#include "proto/spec/recipe.h"
#include "torch/types.h"
#include "worker/engine/quant/grid.h"

namespace teq::quant {

/// Clip factors of every group from a grid search: those with the least output error of the group
/// alone, e G e^T, where e is what its weights are off by and G the Gram matrix of its inputs
/// (AWQ, arXiv 2306.00978, which searches one factor; here the two ends are then searched in turn).
///
/// `weight`: float32 [out, in]; `gram`: X^T X of its inputs, [in, in]. Factors lie in [0.5, 1].
[[nodiscard]] ClipFactors SearchClipping(const torch::Tensor& weight, const torch::Tensor& gram,
                                         const LayerGrid& grid);

}  // namespace teq::quant
