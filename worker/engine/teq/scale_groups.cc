#include "worker/engine/teq/scale_groups.h"

#include <algorithm>

namespace teq::transform {

using model_info::Role;

std::vector<BlockGrids> GridsByBlock(const std::vector<model_info::PlannedLayer>& plan) {
  std::vector<BlockGrids> grids;
  for (const model_info::PlannedLayer& planned : plan) {
    const auto block = static_cast<std::size_t>(planned.layer.block);
    if (grids.size() <= block) grids.resize(block + 1);
    grids[block][static_cast<std::size_t>(planned.layer.role)] = planned.grid;
  }
  return grids;
}

std::vector<ScaleGroup> ScaleGroups(const model_info::ModelConfig& config,
                                    const std::vector<BlockGrids>& grids) {
  std::vector<ScaleGroup> groups;
  for (std::size_t block = 0; block < grids.size(); ++block) {
    const ScaleGroup candidates[] = {
        {block,
         Producer::kAttentionNorm,
         {Role::kQuery, Role::kKey, Role::kValue},
         config.hidden_size},
        {block,
         Producer::kValue,
         {Role::kAttentionOutput},
         config.kv_heads * config.head_size,
         config.head_size,
         config.heads / config.kv_heads},
        {block, Producer::kMlpNorm, {Role::kGate, Role::kUp}, config.hidden_size},
        {block, Producer::kUp, {Role::kDown}, config.intermediate_size}};
    for (const ScaleGroup& group : candidates) {
      const bool useful = std::any_of(
          group.consumers.begin(), group.consumers.end(),
          [&](Role role) { return grids[block][static_cast<std::size_t>(role)].quantized; });
      if (useful) groups.push_back(group);
    }
  }
  return groups;
}

torch::Tensor ConsumerScale(const ScaleGroup& group, const torch::Tensor& scale) {
  if (group.repeat == 1) return scale;
  return scale.view({-1, 1, group.head_size})
      .expand({-1, group.repeat, group.head_size})
      .reshape({-1});
}

torch::Tensor ProducerMean(const ScaleGroup& group, const torch::Tensor& values) {
  if (group.repeat == 1) return values;
  return values.view({-1, group.repeat, group.head_size}).mean(1).reshape({-1});
}

}  // namespace teq::transform
