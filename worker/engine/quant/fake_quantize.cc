#include "worker/engine/quant/fake_quantize.h"

#include "torch/autograd.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/quant/rounding.h"

namespace teq::quant {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Autograd wants tensors: an absent one travels as an empty one.
Tensor OrEmpty(const Tensor& tensor, const Tensor& like) {
  return tensor.defined() ? tensor.contiguous() : torch::empty({0}, like.options());
}
Tensor OrUndefined(const Tensor& tensor) { return tensor.numel() == 0 ? Tensor() : tensor; }

class FakeQuantizeFunction : public torch::autograd::Function<FakeQuantizeFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& weight, const Tensor& input_scale,
                        const Tensor& output_scale, const Tensor& low, const Tensor& high,
                        const Tensor& offset, const Tensor& step_factor, std::int64_t bits,
                        std::int64_t group_size, bool symmetric, bool full) {
    context->saved_data["bits"] = bits;
    context->saved_data["group_size"] = group_size;
    context->saved_data["symmetric"] = symmetric;
    context->saved_data["full"] = full;
    const RoundingOperand operand =
        Operand({weight, input_scale, output_scale, low, high, offset, step_factor});
    const LayerGrid grid = Grid(*context);
    Tensor rounded = Round(operand, grid);
    variable_list saved = {weight, input_scale, output_scale, low, high, offset, step_factor};
    if (step_factor.numel() > 0) {
      ByGroup(rounded, step_factor).mul_(step_factor.unsqueeze(-1));
      saved.push_back(rounded);  // which the product that reads it keeps too
    }
    context->save_for_backward(saved);
    return rounded;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    const variable_list saved = context->get_saved_variables();
    const RoundingOperand operand = Operand(saved);
    const LayerGrid grid = Grid(*context);
    const bool full = context->saved_data["full"].toBool();
    const Tensor& step_factor = operand.adjustment.step_factor;
    Tensor of_rounded = upstream[0];
    Tensor of_step_factor;
    if (step_factor.defined()) {
      of_step_factor = ByGroup(saved[7] * of_rounded, step_factor).sum(-1) / step_factor;
      of_rounded = ByGroup(of_rounded, step_factor) * step_factor.unsqueeze(-1);
      of_rounded = of_rounded.reshape_as(saved[7]);
    }
    const RoundingGradients gradients = RoundingGradient(operand, of_rounded, grid, full);
    return {Tensor(),
            gradients.columns / operand.input_scale,
            -gradients.rows / operand.output_scale,
            gradients.adjustment.clip.low,
            gradients.adjustment.clip.high,
            gradients.adjustment.offset,
            of_step_factor,
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }

 private:
  static RoundingOperand Operand(const variable_list& saved) {
    return {saved[0],
            saved[1],
            saved[2],
            {{OrUndefined(saved[3]), OrUndefined(saved[4])},
             OrUndefined(saved[5]),
             OrUndefined(saved[6])}};
  }

  /// [out, groups, in a group] of [out, in]; a view where that is contiguous.
  static Tensor ByGroup(const Tensor& weight, const Tensor& step_factor) {
    return weight.reshape({weight.size(0), step_factor.size(1), -1});
  }

  static LayerGrid Grid(AutogradContext& context) {
    return {true, static_cast<int>(context.saved_data["bits"].toInt()),
            static_cast<int>(context.saved_data["group_size"].toInt()),
            context.saved_data["symmetric"].toBool()};
  }
};

}  // namespace

Tensor FakeQuantize(const Tensor& weight, const Tensor& input_scale, const Tensor& output_scale,
                    const Adjustment& adjustment, const LayerGrid& grid,
                    teq::v1::Gradient gradient) {
  const auto scale_or_ones = [&](const Tensor& scale, std::int64_t size) {
    return scale.defined() ? scale.contiguous() : torch::ones({size}, weight.options());
  };
  return FakeQuantizeFunction::apply(
      weight.contiguous(), scale_or_ones(input_scale, weight.size(1)),
      scale_or_ones(output_scale, weight.size(0)), OrEmpty(adjustment.clip.low, weight),
      OrEmpty(adjustment.clip.high, weight), OrEmpty(adjustment.offset, weight),
      OrEmpty(adjustment.step_factor, weight), std::int64_t{grid.bits},
      std::int64_t{grid.group_size}, grid.symmetric,
      gradient != teq::v1::GRADIENT_STRAIGHT_THROUGH);
}

}  // namespace teq::quant
