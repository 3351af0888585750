#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "client/model_info/layout.h"
#include "client/model_info/plan.h"
#include "torch/types.h"

namespace teq::transform {

/// A producer, and the consumers whose input columns may be multiplied by a when its outputs are
/// divided by it, with the model's function unchanged (TEQ, arXiv 2310.10944; AWQ, arXiv
/// 2306.00978):
///
///   norm -> what reads it   its weight scales its output channel by channel; all readers are
///                           consumers, the router of a mixture and the gate of a shared expert too
///   value -> output         attention mixes positions, never channels; heads that share a
///                           key-value head share its scales
///   up -> down              down reads act(gate) * up, which is linear in up; without a gate only
///                           across ReLU, as relu(x / a) a = relu(x)
///
/// A norm whose output is also the residual gives no group.
struct ScaleGroup {
  std::size_t block = 0;
  std::optional<model_info::NormPlace> norm;  // the producer; else a linear layer:
  std::size_t linear = 0;                     // its index in the block
  torch::Tensor rows;                         // int64 [width]: its outputs that are divided
  std::vector<std::size_t> consumers;         // linear layers of the block
  std::int64_t width = 0;                     // trained scales
  std::int64_t head_size = 0;                 // where `repeat` > 1
  std::int64_t repeat = 1;                    // consumers' heads that read one of the producer's
};

/// Grids by block and layer.
using BlockGrids = std::vector<LayerGrid>;
[[nodiscard]] std::vector<BlockGrids> GridsByBlock(
    const std::vector<model_info::PlannedLayer>& plan);

/// The groups of a model, block by block. A group none of whose consumers is quantized is left out:
/// scaling it would change nothing.
[[nodiscard]] std::vector<ScaleGroup> ScaleGroups(const model_info::ModelConfig& config,
                                                  const std::vector<BlockGrids>& grids);

/// The scale of every input of the consumers, [in], from the trained ones, [width].
[[nodiscard]] torch::Tensor ConsumerScale(const ScaleGroup& group, const torch::Tensor& scale);

/// The mean over the inputs that share a trained scale: [in] to [width].
[[nodiscard]] torch::Tensor ProducerMean(const ScaleGroup& group, const torch::Tensor& values);

}  // namespace teq::transform
