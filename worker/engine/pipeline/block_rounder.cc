#include "worker/engine/pipeline/block_rounder.h"

#include <algorithm>
#include <ranges>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/quant/gptq.h"
#include "worker/engine/teq/statistics.h"

namespace teq::pipeline {

using torch::Tensor;

absl::StatusOr<BlockRounder> BlockRounder::Make(const teq::v1::Rounding& rounding,
                                                const model::Decoder& decoder,
                                                const text::Windows& windows,
                                                std::int64_t batch_size, model::Scratch& scratch) {
  BlockRounder rounder(rounding, decoder, windows.length);
  if (rounding.has_gptq()) {
    TEQ_ASSIGN_OR_RETURN(rounder.states_, model::WindowStates::Embed(decoder, rounder.runner_,
                                                                     model::WindowTensor(windows),
                                                                     batch_size, scratch));
  }
  return rounder;
}

BlockCodes BlockRounder::Round(const model::Block& folded, const transform::BlockGrids& grids,
                               const transform::BlockAdjustments& adjustments) {
  const torch::NoGradGuard no_gradient;
  if (rounding_.has_gptq()) return RoundSequentially(folded, grids, adjustments);
  BlockCodes codes(folded.linears.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (!grids[i].quantized) continue;
    codes[i] = quant::QuantizeToNearest(folded.linears[i].weight, grids[i], adjustments[i]);
  }
  return codes;
}

BlockCodes BlockRounder::RoundSequentially(const model::Block& folded,
                                           const transform::BlockGrids& grids,
                                           const transform::BlockAdjustments& adjustments) {
  BlockCodes codes(folded.linears.size());
  model::Block rounded = folded;
  for (int step = 0; step < model_info::kSteps; ++step) {
    const auto rounds = [&](std::size_t layer) {
      return grids[layer].quantized &&
             model_info::StepOf(folded.linears[layer].layer.input) == step;
    };
    const auto layers = std::views::iota(std::size_t{0}, codes.size());
    if (std::ranges::none_of(layers, rounds)) continue;
    const transform::BlockStatistics statistics =
        transform::GatherStep(runner_, rounded, *states_, step);
    for (const std::size_t i : layers) {
      if (!rounds(i)) continue;
      const model::Linear& linear = folded.linears[i];
      codes[i] = RoundByGptq(linear, statistics[static_cast<std::size_t>(linear.layer.input)].gram,
                             grids[i], adjustments[i].clip);
      rounded.linears[i].weight = quant::Dequantize(codes[i]);
    }
  }
  states_->Advance([&](const Tensor& batch) { return runner_.Run(rounded, batch); });
  return codes;
}

quant::Quantized BlockRounder::RoundByGptq(const model::Linear& linear, const Tensor& gram,
                                           const LayerGrid& grid, const quant::ClipFactors& clip) {
  const teq::v1::GptqRounding& gptq = rounding_.gptq();
  const quant::GptqResult result =
      quant::RoundGptq(linear.weight, gram, grid, clip,
                       {.damping = gptq.damping(),
                        .before_update = gptq.group_range() == teq::v1::GROUP_RANGE_BEFORE_UPDATE,
                        .order_by_activation = gptq.order_by_activation()});
  if (!result.compensated) {
    notes_.push_back(fmt::format("{}: no damping made the Hessian definite; rounded to nearest",
                                 linear.layer.name));
  } else if (result.damping > gptq.damping()) {
    notes_.push_back(fmt::format("{}: the Hessian is singular; damping was raised from {} to {}",
                                 linear.layer.name, gptq.damping(), result.damping));
  }
  if (result.dead_columns > 0 && result.dead_columns < linear.weight.size(1)) {
    notes_.push_back(fmt::format("{}: {} of {} inputs are never active on the calibration text",
                                 linear.layer.name, result.dead_columns, linear.weight.size(1)));
  }
  return result.quantized;
}

}  // namespace teq::pipeline
