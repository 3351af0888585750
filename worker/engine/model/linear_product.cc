#include "worker/engine/model/linear_product.h"

#include "torch/autograd.h"

namespace teq::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr torch::ScalarType kShort = torch::kBFloat16;

class ShortProduct : public torch::autograd::Function<ShortProduct> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight) {
    const Tensor rows = input.flatten(0, -2).to(kShort);
    const Tensor short_weight = weight.to(kShort);
    context->save_for_backward({rows, short_weight});
    context->saved_data["shape"] = input.sizes();
    context->saved_data["to_input"] = input.requires_grad();
    context->saved_data["to_weight"] = weight.requires_grad();
    std::vector<std::int64_t> shape = input.sizes().vec();
    shape.back() = weight.size(0);
    return torch::linear(rows, short_weight).to(torch::kFloat32).view(shape);
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    const variable_list saved = context->get_saved_variables();
    const Tensor gradient = upstream[0].flatten(0, -2).to(kShort);
    Tensor to_input;
    Tensor to_weight;
    if (context->saved_data["to_input"].toBool()) {
      to_input = torch::mm(gradient, saved[1])
                     .to(torch::kFloat32)
                     .view(context->saved_data["shape"].toIntVector());
    }
    if (context->saved_data["to_weight"].toBool()) {
      to_weight = torch::mm(gradient.t(), saved[0]).to(torch::kFloat32);
    }
    return {to_input, to_weight};
  }
};

}  // namespace

Tensor LinearProduct(const Tensor& input, const Tensor& weight, const Tensor& bias,
                     torch::ScalarType type) {
  if (type != kShort) return torch::linear(input, weight, bias);
  const Tensor product = ShortProduct::apply(input, weight);
  return bias.defined() ? product + bias : product;
}

}  // namespace teq::model
