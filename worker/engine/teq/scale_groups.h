#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "client/model_info/architecture.h"
#include "client/model_info/plan.h"
#include "torch/types.h"

namespace teq::transform {

/// What absorbs 1/a of a scale group.
enum class Producer { kAttentionNorm, kMlpNorm, kValue, kUp };

/// A producer, and the consumers whose input columns may be multiplied by a when its outputs are
/// divided by it, with the model's function unchanged (TEQ, arXiv 2310.10944; AWQ, arXiv
/// 2306.00978):
///
///   attention norm -> q, k, v      an RMS norm's weight scales its output channel by channel
///   mlp norm       -> gate, up
///   up             -> down         down reads silu(gate) * up, which is linear in up
///   v              -> o            attention mixes positions, never channels; heads that share a
///                                  key-value head share its scales
struct ScaleGroup {
  std::size_t block = 0;
  Producer producer = Producer::kAttentionNorm;
  std::vector<model_info::Role> consumers;
  std::int64_t width = 0;      // trained scales: the producer's outputs
  std::int64_t head_size = 0;  // where `repeat` > 1
  std::int64_t repeat = 1;     // consumers' heads that read one of the producer's
};

/// Grids by block and role.
using BlockGrids = std::array<LayerGrid, model_info::kRoles>;
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
