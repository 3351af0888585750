#include "worker/engine/teq/fold.h"

#include "proto/spec/error.h"
#include "worker/engine/quant/fake_quantize.h"

namespace teq::transform {
namespace {

using torch::Tensor;

struct AbsorbedScale {
  Tensor norm_weight;  // as it will be stored
  Tensor scale;        // what it took away
};

AbsorbedScale AbsorbIntoNorm(const Tensor& weight, model_info::NormKind kind, const Tensor& scale,
                             torch::ScalarType stored) {
  const double one = kind == model_info::NormKind::kRmsOnePlus ? 1 : 0;
  const auto round = [stored](const Tensor& value) { return value.to(stored).to(torch::kFloat32); };
  const Tensor factor = weight + one;
  const Tensor wanted = factor / scale - one;
  // The rounding passes gradients straight through.
  const Tensor rounded = wanted + (round(wanted) - wanted).detach();
  const Tensor absorbing = rounded + one;
  const Tensor usable =
      (factor != 0) & (absorbing.detach() != 0) & torch::isfinite(absorbing.detach());
  const Tensor divisor = torch::where(usable, absorbing, torch::ones_like(absorbing));
  return {torch::where(usable, rounded, round(weight)),
          torch::where(usable, factor / divisor, torch::ones_like(weight))};
}

Tensor ScaledBias(const Tensor& bias, const Tensor& output_scale) {
  return bias.defined() && output_scale.defined() ? bias / output_scale : bias;
}

Tensor ScaledWeight(const Tensor& weight, const Tensor& input_scale, const Tensor& output_scale) {
  Tensor scaled = weight;
  if (input_scale.defined()) scaled = scaled * input_scale;
  if (output_scale.defined()) scaled = scaled / output_scale.unsqueeze(1);
  return scaled;
}

}  // namespace

BlockScales ResolveScales(const model::Block& block, model_info::NormKind norm_kind,
                          const std::vector<ScaleGroup>& groups,
                          const std::vector<Tensor>& log_scales, torch::ScalarType stored) {
  BlockScales result{.norms = block.norms};
  result.input.resize(block.linears.size());
  result.output.resize(block.linears.size());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const ScaleGroup& group = groups[i];
    if (group.block != static_cast<std::size_t>(block.number)) continue;
    Tensor scale = log_scales[i].exp();
    if (group.norm) {
      model::Norm& norm = result.norms[static_cast<std::size_t>(*group.norm)];
      const AbsorbedScale absorbed = AbsorbIntoNorm(norm.weight, norm_kind, scale, stored);
      norm.weight = absorbed.norm_weight;
      scale = absorbed.scale;
      norm.bias = ScaledBias(norm.bias, scale);
    } else {
      Tensor& output = result.output[group.linear];
      if (!output.defined()) {
        output = torch::ones({block.linears[group.linear].weight.size(0)}, scale.options());
      }
      output = output.index_copy(0, group.rows.to(scale.device()), scale);
    }
    for (const std::size_t consumer : group.consumers) {
      result.input[consumer] = ConsumerScale(group, scale);
    }
  }
  return result;
}

model::Block FoldBlock(const model::Block& block, const BlockScales& scales) {
  model::Block folded = block;
  folded.norms = scales.norms;
  for (std::size_t i = 0; i < folded.linears.size(); ++i) {
    model::Linear& linear = folded.linears[i];
    linear.weight = ScaledWeight(linear.weight, scales.input[i], scales.output[i]);
    linear.bias = ScaledBias(linear.bias, scales.output[i]);
  }
  return folded;
}

model::Block FakeQuantizeBlock(const model::Block& block, const BlockScales& scales,
                               const BlockGrids& grids, const BlockAdjustments& adjustments,
                               teq::v1::Gradient gradient) {
  model::Block result = block;
  result.norms = scales.norms;
  for (std::size_t i = 0; i < result.linears.size(); ++i) {
    model::Linear& linear = result.linears[i];
    linear.weight = grids[i].quantized
                        ? quant::FakeQuantize(linear.weight, scales.input[i], scales.output[i],
                                              adjustments[i], grids[i], gradient)
                        : ScaledWeight(linear.weight, scales.input[i], scales.output[i]);
    linear.bias = ScaledBias(linear.bias, scales.output[i]);
  }
  return result;
}

model::Decoder FakeQuantizeDecoder(const model::Decoder& decoder,
                                   const std::vector<ScaleGroup>& groups,
                                   const Parameters& parameters,
                                   const std::vector<BlockGrids>& grids, torch::ScalarType stored,
                                   teq::v1::Gradient gradient) {
  model::Decoder result = decoder;
  result.blocks.clear();
  result.read_block = [&, stored, gradient](std::size_t number) -> absl::StatusOr<model::Block> {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, decoder.ReadBlock(number));
    const BlockScales scales =
        ResolveScales(block, decoder.config.norm, groups, parameters.log_scales, stored);
    return FakeQuantizeBlock(block, scales, grids[number], parameters.adjustments[number],
                             gradient);
  };
  return result;
}

}  // namespace teq::transform
