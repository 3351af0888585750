#include "worker/engine/teq/scale_groups.h"

#include <algorithm>
#include <span>

namespace teq::transform {
namespace {

using model_info::Activation;
using model_info::LinearLayer;
using model_info::ModelConfig;
using model_info::NormPlace;
using model_info::Role;
using torch::Tensor;

/// Finds the groups of one block among its layers.
class BlockGroups {
 public:
  BlockGroups(const ModelConfig& config, std::span<const LinearLayer> layers)
      : config_(config), layers_(layers) {}

  std::vector<ScaleGroup> All() && {
    const bool norms_absorb = !config_.post_norm && !config_.residual_from_norm;
    if (norms_absorb) AddNorm(NormPlace::kAttention, model_info::kAttentionInput);
    AddValue();
    if (norms_absorb && !config_.names.mlp_norm.empty()) {
      AddNorm(NormPlace::kMlp, model_info::kMlpInput);
    }
    for (const LinearLayer& layer : layers_) {
      if (layer.role == Role::kDown) AddHidden(layer);
    }
    return std::move(groups_);
  }

 private:
  /// Which of the block's norms a layer reads: experts read what the router sends them of it.
  static int NormInput(const LinearLayer& layer) { return model_info::StepOf(layer.input); }

  void AddNorm(NormPlace place, int input) {
    ScaleGroup group{.block = Block(), .norm = place, .width = config_.hidden_size};
    for (const LinearLayer& layer : layers_) {
      if (NormInput(layer) == input) group.consumers.push_back(layer.index);
    }
    groups_.push_back(std::move(group));
  }

  void AddValue() {
    if (config_.qkv_clip > 0) return;  // clipping is not linear
    const std::int64_t head = config_.head_size;
    const std::int64_t width = config_.kv_heads * head;
    const std::int64_t repeat = config_.heads / config_.kv_heads;
    ScaleGroup group{.block = Block(), .width = width, .head_size = head, .repeat = repeat};
    for (const LinearLayer& layer : layers_) {
      if (layer.role == Role::kValue) {
        group.linear = layer.index;
        group.rows = torch::arange(width);
      } else if (layer.role == Role::kQueryKeyValue) {
        group.linear = layer.index;
        const Tensor rows = torch::arange(layer.out);
        group.rows = config_.qkv_by_head
                         ? rows.view({config_.kv_heads, repeat + 2, head}).select(1, repeat + 1)
                         : rows.slice(0, layer.out - width);
        group.rows = group.rows.flatten().contiguous();
      } else if (layer.role == Role::kAttentionOutput) {
        group.consumers.push_back(layer.index);
      }
    }
    groups_.push_back(std::move(group));
  }

  /// From the layer that gives `down` its input.
  void AddHidden(const LinearLayer& down) {
    const auto producer = std::ranges::find_if(layers_, [&](const LinearLayer& layer) {
      return layer.expert == down.expert &&
             (layer.role == Role::kUp || layer.role == Role::kGateUp);
    });
    const bool gated = producer->role == Role::kGateUp ||
                       std::ranges::any_of(layers_, [&](const LinearLayer& layer) {
                         return layer.expert == down.expert && layer.role == Role::kGate;
                       });
    if (!gated && config_.activation != Activation::kRelu) return;
    groups_.push_back({.block = Block(),
                       .linear = producer->index,
                       .rows = torch::arange(producer->out - down.in, producer->out),
                       .consumers = {down.index},
                       .width = down.in});
  }

  [[nodiscard]] std::size_t Block() const {
    return static_cast<std::size_t>(layers_.front().block);
  }

  const ModelConfig& config_;
  std::span<const LinearLayer> layers_;
  std::vector<ScaleGroup> groups_;
};

}  // namespace

std::vector<BlockGrids> GridsByBlock(const std::vector<model_info::PlannedLayer>& plan) {
  std::vector<BlockGrids> grids;
  for (const model_info::PlannedLayer& planned : plan) {
    const auto block = static_cast<std::size_t>(planned.layer.block);
    if (grids.size() <= block) grids.resize(block + 1);
    grids[block].push_back(planned.grid);
  }
  return grids;
}

std::vector<ScaleGroup> ScaleGroups(const ModelConfig& config,
                                    const std::vector<BlockGrids>& grids) {
  const std::vector<LinearLayer> layers = model_info::LinearLayers(config);
  std::vector<ScaleGroup> groups;
  std::size_t begin = 0;
  for (const BlockGrids& block : grids) {
    for (ScaleGroup& group :
         BlockGroups(config, std::span(layers).subspan(begin, block.size())).All()) {
      const bool useful = std::ranges::any_of(
          group.consumers, [&](std::size_t index) { return block[index].quantized; });
      if (useful) groups.push_back(std::move(group));
    }
    begin += block.size();
  }
  return groups;
}

Tensor ConsumerScale(const ScaleGroup& group, const Tensor& scale) {
  if (group.repeat == 1) return scale;
  return scale.view({-1, 1, group.head_size})
      .expand({-1, group.repeat, group.head_size})
      .reshape({-1});
}

Tensor ProducerMean(const ScaleGroup& group, const Tensor& values) {
  if (group.repeat == 1) return values;
  return values.view({-1, group.repeat, group.head_size}).mean(1).reshape({-1});
}

}  // namespace teq::transform
