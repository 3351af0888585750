#pragma once

#include <array>
#include <string>
#include <vector>

#include "teq/v1/recipe.pb.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/parameters.h"
#include "worker/engine/teq/scale_groups.h"

namespace teq::transform {

/// What the scale groups of one block do to it.
struct BlockScales {
  torch::Tensor attention_norm;  // the norms' new weights, [hidden]
  torch::Tensor mlp_norm;
  std::array<torch::Tensor, model_info::kRoles> input;   // by Role, [in]; undefined: ones
  std::array<torch::Tensor, model_info::kRoles> output;  // by Role, [out]; undefined: ones
};

/// Resolves trained log scales into what is multiplied where. A norm's weight is stored rounded, so
/// it is rounded first, to `stored` (the published type), and its consumers get the scale that the
/// rounded weight really absorbed: w / round(w / a). A channel whose weight is zero, or would leave
/// the stored type's range, keeps the scale 1. `log_scales[i]` belongs to `groups[i]`.
/// Differentiable.
[[nodiscard]] BlockScales ResolveScales(const model::Block& block, std::size_t number,
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

/// The decoder with every block so transformed.
[[nodiscard]] model::Decoder FakeQuantizeDecoder(const model::Decoder& decoder,
                                                 const std::vector<ScaleGroup>& groups,
                                                 const Parameters& parameters,
                                                 const std::vector<BlockGrids>& grids,
                                                 torch::ScalarType stored,
                                                 teq::v1::Gradient gradient);

}  // namespace teq::transform
