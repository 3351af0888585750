#include "worker/engine/teq/parameters.h"

#include <algorithm>

namespace teq::transform {

using torch::Tensor;

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

void SummarizeClipping(const quant::ClipFactors& clip, teq::v1::LayerReport& layer) {
  if (!clip.low.defined() || !clip.high.defined()) return;
  teq::v1::ClippingReport& report = *layer.mutable_clipping();
  report.set_low_mean(clip.low.mean().item<double>());
  report.set_high_mean(clip.high.mean().item<double>());
  report.set_min(std::min(clip.low.min().item<double>(), clip.high.min().item<double>()));
  report.set_max(std::max(clip.low.max().item<double>(), clip.high.max().item<double>()));
}

}  // namespace teq::transform
