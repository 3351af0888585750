#include "worker/engine/teq/fold.h"

#include "worker/engine/quant/fake_quantize.h"

namespace teq::transform {
namespace {

using model_info::Role;
using torch::Tensor;

constexpr std::size_t Index(Role role) { return static_cast<std::size_t>(role); }

struct AbsorbedScale {
  Tensor norm_weight;  // as it will be stored
  Tensor scale;        // what it took away
};

AbsorbedScale AbsorbIntoNorm(const Tensor& weight, const Tensor& scale, torch::ScalarType stored) {
  const auto round = [stored](const Tensor& value) { return value.to(stored).to(torch::kFloat32); };
  const Tensor wanted = weight / scale;
  // The rounding passes gradients straight through.
  const Tensor rounded = wanted + (round(wanted) - wanted).detach();
  const Tensor usable = (weight != 0) & (rounded.detach() != 0) & torch::isfinite(rounded.detach());
  const Tensor divisor = torch::where(usable, rounded, torch::ones_like(rounded));
  return {torch::where(usable, rounded, round(weight)),
          torch::where(usable, weight / divisor, torch::ones_like(weight))};
}

Role ProducerRole(Producer producer) {
  return producer == Producer::kValue ? Role::kValue : Role::kUp;
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

BlockScales ResolveScales(const model::Block& block, std::size_t number,
                          const std::vector<ScaleGroup>& groups,
                          const std::vector<Tensor>& log_scales, torch::ScalarType stored) {
  BlockScales result{.attention_norm = block.attention_norm.weight,
                     .mlp_norm = block.mlp_norm.weight};
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const ScaleGroup& group = groups[i];
    if (group.block != number) continue;
    Tensor scale = log_scales[i].exp();
    if (group.producer == Producer::kAttentionNorm || group.producer == Producer::kMlpNorm) {
      Tensor& norm =
          group.producer == Producer::kAttentionNorm ? result.attention_norm : result.mlp_norm;
      const AbsorbedScale absorbed = AbsorbIntoNorm(norm, scale, stored);
      norm = absorbed.norm_weight;
      scale = absorbed.scale;
    } else {
      result.output[Index(ProducerRole(group.producer))] = scale;
    }
    for (const Role consumer : group.consumers) {
      result.input[Index(consumer)] = ConsumerScale(group, scale);
    }
  }
  return result;
}

model::Block FoldBlock(const model::Block& block, const BlockScales& scales) {
  model::Block folded = block;
  folded.attention_norm.weight = scales.attention_norm;
  folded.mlp_norm.weight = scales.mlp_norm;
  for (std::size_t role = 0; role < folded.linears.size(); ++role) {
    model::Linear& linear = folded.linears[role];
    linear.weight = ScaledWeight(linear.weight, scales.input[role], scales.output[role]);
    linear.bias = ScaledBias(linear.bias, scales.output[role]);
  }
  return folded;
}

model::Block FakeQuantizeBlock(const model::Block& block, const BlockScales& scales,
                               const BlockGrids& grids, const BlockAdjustments& adjustments,
                               teq::v1::Gradient gradient) {
  model::Block result = block;
  result.attention_norm.weight = scales.attention_norm;
  result.mlp_norm.weight = scales.mlp_norm;
  for (std::size_t role = 0; role < result.linears.size(); ++role) {
    model::Linear& linear = result.linears[role];
    linear.weight =
        grids[role].quantized
            ? quant::FakeQuantize(linear.weight, scales.input[role], scales.output[role],
                                  adjustments[role], grids[role], gradient)
            : ScaledWeight(linear.weight, scales.input[role], scales.output[role]);
    linear.bias = ScaledBias(linear.bias, scales.output[role]);
  }
  return result;
}

model::Decoder FakeQuantizeDecoder(const model::Decoder& decoder,
                                   const std::vector<ScaleGroup>& groups,
                                   const Parameters& parameters,
                                   const std::vector<BlockGrids>& grids, torch::ScalarType stored,
                                   teq::v1::Gradient gradient) {
  model::Decoder result = decoder;
  for (std::size_t i = 0; i < result.blocks.size(); ++i) {
    const BlockScales scales =
        ResolveScales(decoder.blocks[i], i, groups, parameters.log_scales, stored);
    result.blocks[i] =
        FakeQuantizeBlock(decoder.blocks[i], scales, grids[i], parameters.adjustments[i], gradient);
  }
  return result;
}

}  // namespace teq::transform
