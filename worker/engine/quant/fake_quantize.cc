#include "worker/engine/quant/fake_quantize.h"

#include "torch/autograd.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/quant/scale_gradient.h"

namespace teq::quant {
namespace {

using torch::Tensor;

class FakeQuantizeFunction : public torch::autograd::Function<FakeQuantizeFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& weight,
                        const Tensor& input_scale, const Tensor& output_scale, std::int64_t bits,
                        std::int64_t group_size, bool symmetric, bool full) {
    const LayerGrid grid{true, static_cast<int>(bits), static_cast<int>(group_size), symmetric};
    context->save_for_backward({weight, input_scale, output_scale});
    context->saved_data["bits"] = bits;
    context->saved_data["group_size"] = group_size;
    context->saved_data["symmetric"] = symmetric;
    context->saved_data["full"] = full;
    const ScaledWeight operand{weight, input_scale, output_scale};
    return weight.device().is_cpu() ? RoundOnCpu(operand, grid)
                                    : Dequantize(QuantizeToNearest(operand.Value(), grid));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const Tensor& weight = saved[0];
    const Tensor& input_scale = saved[1];
    const Tensor& output_scale = saved[2];
    const LayerGrid grid{true, static_cast<int>(context->saved_data["bits"].toInt()),
                         static_cast<int>(context->saved_data["group_size"].toInt()),
                         context->saved_data["symmetric"].toBool()};
    const bool full = context->saved_data["full"].toBool();
    const ScaledWeight operand{weight, input_scale, output_scale};
    const ScaleGradients logs = weight.device().is_cpu()
                                    ? GradientOnCpu(operand, gradients[0], grid, full)
                                    : GradientOnAnyDevice(operand, gradients[0], grid, full);
    return {Tensor(),
            logs.columns / input_scale,
            -logs.rows / output_scale,
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor FakeQuantize(const Tensor& weight, const Tensor& input_scale, const Tensor& output_scale,
                    const LayerGrid& grid, teq::v1::Gradient gradient) {
  const auto scale_or_ones = [&](const Tensor& scale, std::int64_t size) {
    return scale.defined() ? scale.contiguous() : torch::ones({size}, weight.options());
  };
  return FakeQuantizeFunction::apply(
      weight.contiguous(), scale_or_ones(input_scale, weight.size(1)),
      scale_or_ones(output_scale, weight.size(0)), std::int64_t{grid.bits},
      std::int64_t{grid.group_size}, grid.symmetric,
      gradient != teq::v1::GRADIENT_STRAIGHT_THROUGH);
}

}  // namespace teq::quant
