#include "worker/engine/teq/parameters.h"

#include <algorithm>
#include <array>

#include "proto/spec/error.h"

namespace teq::transform {

using torch::Tensor;

namespace {

std::array<Tensor*, 4> Parts(quant::Adjustment& adjustment) {
  return {&adjustment.clip.low, &adjustment.clip.high, &adjustment.offset, &adjustment.step_factor};
}

}  // namespace

Parameters PlainParameters(const std::vector<ScaleGroup>& groups,
                           const std::vector<BlockGrids>& grids,
                           const torch::TensorOptions& options) {
  Parameters plain;
  for (const ScaleGroup& group : groups) {
    plain.log_scales.push_back(torch::zeros({group.width}, options));
  }
  for (const BlockGrids& block : grids) plain.adjustments.emplace_back(block.size());
  return plain;
}

BlockAdjustments OnDevice(const BlockAdjustments& adjustments, const torch::Device& device) {
  BlockAdjustments moved = adjustments;
  for (quant::Adjustment& adjustment : moved) {
    for (Tensor* const part : Parts(adjustment)) {
      if (part->defined()) *part = part->to(device);
    }
  }
  return moved;
}

absl::Status KeepOnHost(BlockAdjustments& adjustments, model::Scratch& scratch) {
  for (quant::Adjustment& adjustment : adjustments) {
    for (Tensor* const part : Parts(adjustment)) {
      if (!part->defined() || part->is_cpu()) continue;
      TEQ_ASSIGN_OR_RETURN(*part, scratch.Keep(part->to(torch::kCPU)));
    }
  }
  return absl::OkStatus();
}

void SummarizeClipping(const quant::ClipFactors& clip, teq::v1::LayerReport& layer) {
  if (!clip.low.defined() || !clip.high.defined()) return;
  teq::v1::ClippingReport& report = *layer.mutable_clipping();
  report.set_low_mean(clip.low.mean().item<double>());
  report.set_high_mean(clip.high.mean().item<double>());
  report.set_min(std::min(clip.low.min().item<double>(), clip.high.min().item<double>()));
  report.set_max(std::max(clip.low.max().item<double>(), clip.high.max().item<double>()));
}

}  // namespace teq::transform
