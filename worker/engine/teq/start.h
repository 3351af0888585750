#pragma once

#include <vector>

#include "teq/v1/recipe.pb.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/scale_groups.h"
#include "worker/engine/teq/statistics.h"

namespace teq::transform {

/// The logarithms of the scales that a group's training starts from, float32 [width].
///
/// ONES: zeros. WEIGHT_NORM: 1 / mean |w| of a column over the group's consumers, with geometric
/// mean 1. AWQ (arXiv 2306.00978): x^r / w^(1-r) and x^r for r = 0, 1/20, ..., 19/20, where x is
/// the mean |input| of a channel and w the mean of |w| over its quantization group's largest; of
/// these, of ones and of WEIGHT_NORM, the one whose rounded consumers have the least output error
/// on the calibration text.
[[nodiscard]] torch::Tensor StartingScales(teq::v1::Initialization init, const ScaleGroup& group,
                                           const model::Block& block, const BlockGrids& grids,
                                           const BlockStatistics& statistics);

}  // namespace teq::transform
