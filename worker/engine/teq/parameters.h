#pragma once

#include <vector>

#include "absl/status/status.h"
#include "teq/v1/report.pb.h"
#include "torch/types.h"
#include "worker/engine/model/scratch.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/teq/scale_groups.h"

namespace teq::transform {

/// How the layers of a block are rounded.
using BlockAdjustments = std::vector<quant::Adjustment>;

/// All that a recipe chooses about a model before its weights become codes. Undefined tensors of
/// the adjustments mean no clipping and no offsets.
struct Parameters {
  std::vector<torch::Tensor> log_scales;      // by group, [width]
  std::vector<BlockAdjustments> adjustments;  // by block
};

/// Plain rounding: scales of 1, no adjustment.
[[nodiscard]] Parameters PlainParameters(const std::vector<ScaleGroup>& groups,
                                         const std::vector<BlockGrids>& grids,
                                         const torch::TensorOptions& options);

/// Where a training or rounding needs them; the same tensors where they are there already.
[[nodiscard]] BlockAdjustments OnDevice(const BlockAdjustments& adjustments,
                                        const torch::Device& device);

/// Moves a device's into scratch, as a device holds those of one block at a time. Errors as
/// Scratch::Keep.
[[nodiscard]] absl::Status KeepOnHost(BlockAdjustments& adjustments, model::Scratch& scratch);

/// The clip factors of one layer; unset without any.
void SummarizeClipping(const quant::ClipFactors& clip, teq::v1::LayerReport& layer);

}  // namespace teq::transform
