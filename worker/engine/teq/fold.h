#pragma once

#include <array>
#include <vector>

#include "teq/v1/recipe.pb.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/parameters.h"
#include "worker/engine/teq/scale_groups.h"

namespace teq::transform {

/// What the scale groups of one block do to it.
struct BlockScales {
  std::array<model::Norm, model_info::kNormPlaces> norms;  // the block's norms, by NormPlace
  std::vector<torch::Tensor> input;                        // by layer, [in]; undefined: ones
  std::vector<torch::Tensor> output;                       // by layer, [out]; undefined: ones
};

/// Resolves trained log scales into what is multiplied where. A norm's weight is stored rounded, so
/// it is rounded first, to `stored` (the published type), and its consumers get the scale that the
/// rounded weight really absorbed: w / round(w / a), or with a norm that multiplies by 1 + w,
/// (1 + w) / (1 + round((1 + w) / a - 1)). A channel that multiplies by zero, or would leave the
/// stored type's range, keeps the scale 1. `log_scales[i]` belongs to `groups[i]`. Differentiable.
[[nodiscard]] BlockScales ResolveScales(const model::Block& block, model_info::NormKind norm_kind,
                                        const std::vector<ScaleGroup>& groups,
                                        const std::vector<torch::Tensor>& log_scales,
                                        torch::ScalarType stored);

/// The block with the scales folded in; its function is unchanged.
[[nodiscard]] model::Block FoldBlock(const model::Block& block, const BlockScales& scales);

/// The folded block with every layer that has a grid rounded on it, differentiable in the scales
/// and the adjustments.
[[nodiscard]] model::Block FakeQuantizeBlock(const model::Block& block, const BlockScales& scales,
                                             const BlockGrids& grids,
                                             const BlockAdjustments& adjustments,
                                             teq::v1::Gradient gradient);

/// The decoder whose blocks are so transformed when they are read. Borrows its arguments.
[[nodiscard]] model::Decoder FakeQuantizeDecoder(const model::Decoder& decoder,
                                                 const std::vector<ScaleGroup>& groups,
                                                 const Parameters& parameters,
                                                 const std::vector<BlockGrids>& grids,
                                                 torch::ScalarType stored,
                                                 teq::v1::Gradient gradient);

}  // namespace teq::transform
