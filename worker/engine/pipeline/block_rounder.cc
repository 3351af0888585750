#include "worker/engine/pipeline/block_rounder.h"

#include "fmt/format.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/quant/gptq.h"
#include "worker/engine/teq/statistics.h"

namespace teq::pipeline {

using model_info::Role;
using torch::Tensor;

BlockRounder::BlockRounder(const teq::v1::Rounding& rounding, const model::Decoder& decoder,
                           const text::Windows& windows, std::int64_t batch_size)
    : rounding_(rounding), runner_(decoder, windows.length) {
  if (!rounding.has_gptq()) return;
  for (const Tensor& ids : model::WindowTensor(windows).split(batch_size)) {
    states_.push_back(runner_.Embed(ids));
  }
}

BlockCodes BlockRounder::Round(const model::Block& folded, const transform::BlockGrids& grids,
                               const transform::BlockAdjustments& adjustments) {
  const torch::NoGradGuard no_gradient;
  if (rounding_.has_gptq()) return RoundSequentially(folded, grids, adjustments);
  BlockCodes codes;
  for (std::size_t role = 0; role < codes.size(); ++role) {
    if (!grids[role].quantized) continue;
    codes[role] =
        quant::QuantizeToNearest(folded.linears[role].weight, grids[role], adjustments[role]);
  }
  return codes;
}

BlockCodes BlockRounder::RoundSequentially(const model::Block& folded,
                                           const transform::BlockGrids& grids,
                                           const transform::BlockAdjustments& adjustments) {
  BlockCodes codes;
  model::Block rounded = folded;
  for (std::size_t role = 0; role < codes.size(); ++role) {
    const std::size_t source = transform::SharedInput(static_cast<Role>(role));
    if (source != role) continue;
    Tensor gram;
    for (std::size_t reader = role; reader < codes.size(); ++reader) {
      if (transform::SharedInput(static_cast<Role>(reader)) != source) continue;
      if (!grids[reader].quantized) continue;
      if (!gram.defined()) {
        gram = transform::GatherInput(runner_, rounded, states_, static_cast<Role>(role)).gram;
      }
      codes[reader] =
          RoundByGptq(folded.linears[reader], gram, grids[reader], adjustments[reader].clip);
      rounded.linears[reader].weight = quant::Dequantize(codes[reader]);
    }
  }
  for (Tensor& batch : states_) batch = runner_.Run(rounded, batch);
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
    notes_.push_back(
        fmt::format("{}: no damping made the Hessian definite; rounded to nearest", linear.name));
  } else if (result.damping > gptq.damping()) {
    notes_.push_back(fmt::format("{}: the Hessian is singular; damping was raised from {} to {}",
                                 linear.name, gptq.damping(), result.damping));
  }
  if (result.dead_columns > 0) {
    notes_.push_back(fmt::format("{}: {} of {} inputs are never active on the calibration text",
                                 linear.name, result.dead_columns, linear.weight.size(1)));
  }
  return result.quantized;
}

}  // namespace teq::pipeline
