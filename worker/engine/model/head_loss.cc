#include "worker/engine/model/head_loss.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "ATen/Parallel.h"
#include "client/model_info/run_sizes.h"
#include "torch/autograd.h"
#include "worker/engine/model/softmax_kernels.h"

namespace teq::model {
namespace {

using model_info::kLeastSlice;
using model_info::kSliceLogits;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows of one task of a thread.
constexpr std::int64_t kRowsPerTask = 16;

/// Columns of a slice.
std::int64_t SliceOf(std::int64_t tokens) {
  return std::max(kLeastSlice, kSliceLogits / std::max<std::int64_t>(1, tokens));
}

/// The frozen head.
struct Head {
  Tensor weight;  // [vocabulary, embedding_size], in its stored type
  Tensor bias;    // [vocabulary], or undefined
  double cap = 0;
  torch::ScalarType products = torch::kFloat32;  // see LinearProduct
};

Head HeadOf(const Decoder& decoder, torch::ScalarType products = torch::kFloat32) {
  return {decoder.head.detach(), decoder.head_bias, decoder.config.logit_softcap, products};
}

/// The derivative of the cap by what went into it, from what came out.
Tensor CapSlope(const Tensor& logits, double cap) { return 1 - (logits / cap).square(); }

/// The softmax of a head's logits, by token, put together from slices of the vocabulary.
struct Softmax {
  Tensor log_sum;   // log of the sum of exp(logits), [tokens]
  Tensor mean_row;  // sum_j p_j slope_j W_j, [tokens, embedding_size]; undefined if not asked for
};

/// Maximum and sum of the slices so far, and the weighted sum of the head's rows.
class SoftmaxSum {
 public:
  SoftmaxSum(const Tensor& states, bool with_rows)
      : maximum_(torch::full({states.size(0)}, -std::numeric_limits<float>::infinity(),
                             states.options())),
        sum_(torch::zeros({states.size(0)}, states.options())) {
    if (with_rows) rows_ = torch::zeros_like(states);
  }

  /// `logits`: [tokens, slice], of which only garbage is left; `weight`: the slice's rows, in the
  /// products' type.
  void Add(Tensor& logits, const Tensor& weight, double cap) {
    const Tensor slope = cap > 0 && rows_.defined() ? CapSlope(logits, cap) : Tensor();
    if (logits.device().is_cpu() && logits.scalar_type() == torch::kFloat32) {
      ExponentialsOnCpu(logits);
    } else {
      Exponentials(logits);
    }
    if (!rows_.defined()) return;
    if (slope.defined()) logits.mul_(slope);
    if (weight.scalar_type() == logits.scalar_type()) {
      rows_.addmm_(logits, weight);
    } else {
      rows_.add_(torch::mm(logits.to(weight.scalar_type()), weight));
    }
  }

  [[nodiscard]] Softmax Result() const {
    return {maximum_ + sum_.log(), rows_.defined() ? rows_ / sum_.unsqueeze(1) : Tensor()};
  }

 private:
  void Exponentials(Tensor& logits) {
    const Tensor maximum = torch::maximum(maximum_, logits.amax(1));
    const Tensor factor = (maximum_ - maximum).exp();
    logits.sub_(maximum.unsqueeze(1)).exp_();
    sum_.mul_(factor).add_(logits.sum(1));
    if (rows_.defined()) rows_.mul_(factor.unsqueeze(1));
    maximum_ = maximum;
  }

  void ExponentialsOnCpu(Tensor& logits) {
    const std::int64_t slice = logits.size(1);
    const std::int64_t width = rows_.defined() ? rows_.size(1) : 0;
    auto* values = logits.data_ptr<float>();
    auto* maximum = maximum_.data_ptr<float>();
    auto* sum = sum_.data_ptr<float>();
    auto* rows = rows_.defined() ? rows_.data_ptr<float>() : nullptr;
    at::parallel_for(0, logits.size(0), kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        cpu::RunningSoftmax running{maximum[i], sum[i]};
        const float factor = cpu::AddSlice(values + i * slice, slice, running);
        maximum[i] = running.maximum;
        sum[i] = running.sum;
        if (factor == 1) continue;
        std::for_each(rows + i * width, rows + (i + 1) * width,
                      [factor](float& value) { value *= factor; });
      }
    });
  }

  Tensor maximum_;
  Tensor sum_;
  Tensor rows_;
};

Tensor& CapInPlace(Tensor& logits, double cap) {
  return cap > 0 ? logits.div_(cap).tanh_().mul_(cap) : logits;
}

/// `states`: [tokens, embedding_size], contiguous.
Softmax SoftmaxBySlices(const Head& head, const Tensor& states, bool with_rows) {
  const std::int64_t tokens = states.size(0);
  const std::int64_t vocabulary = head.weight.size(0);
  const std::int64_t slice = std::min(vocabulary, SliceOf(tokens));
  const Tensor buffer = torch::empty({tokens * slice}, states.options());
  const Tensor factor = states.to(head.products);
  SoftmaxSum sum(states, with_rows);
  for (std::int64_t begin = 0; begin < vocabulary; begin += slice) {
    const std::int64_t size = std::min(slice, vocabulary - begin);
    const Tensor weight = head.weight.narrow(0, begin, size).to(head.products);
    Tensor logits = buffer.narrow(0, 0, tokens * size).view({tokens, size});
    if (head.products == logits.scalar_type()) {
      torch::mm_out(logits, factor, weight.t());
    } else {
      logits.copy_(torch::mm(factor, weight.t()));
    }
    if (head.bias.defined()) logits.add_(head.bias.narrow(0, begin, size));
    sum.Add(CapInPlace(logits, head.cap), weight, head.cap);
  }
  return sum.Result();
}

/// A loss by token, and its gradient by the token's states where asked for.
struct TokenLoss {
  Tensor value;     // [tokens]
  Tensor gradient;  // [tokens, embedding_size], or undefined
};

TokenLoss CrossEntropy(const Head& head, const Tensor& states, const Tensor& next,
                       bool with_gradient) {
  const Softmax softmax = SoftmaxBySlices(head, states, with_gradient);
  const Tensor row = head.weight.index_select(0, next).to(torch::kFloat32);
  Tensor logit = (states * row).sum(1);
  if (head.bias.defined()) logit = logit + head.bias.index_select(0, next);
  logit = CapInPlace(logit, head.cap);
  TokenLoss loss{softmax.log_sum - logit, {}};
  if (!with_gradient) return loss;
  loss.gradient =
      softmax.mean_row - (head.cap > 0 ? row * CapSlope(logit, head.cap).unsqueeze(1) : row);
  return loss;
}

TokenLoss Divergence(const Head& head, const Tensor& states, const HeadReference& reference,
                     bool with_gradient) {
  const Softmax softmax = SoftmaxBySlices(head, states, with_gradient);
  // sum_j p_j (l_j - l'_j): the bias cancels.
  const Tensor expected_difference = (reference.mean_row * (reference.states - states)).sum(1);
  return {expected_difference + (softmax.log_sum - reference.log_sum),
          with_gradient ? softmax.mean_row - reference.mean_row : Tensor()};
}

/// The next token's share of each token's distribution, [..., 1].
Tensor ShareOf(const NextTokens& next) {
  return (next.ids >= 0).unsqueeze(-1).to(torch::kFloat32) * next.share;
}

/// Capped logits are not linear in the states, so whole rows of them are made, some tokens at a
/// time.
TokenLoss CappedDivergence(const Head& head, const Tensor& states, const HeadReference& reference,
                           bool with_gradient) {
  const std::int64_t rows =
      std::max<std::int64_t>(1, 4 * kSliceLogits / std::max<std::int64_t>(1, head.weight.size(0)));
  const Tensor weight = head.weight.to(torch::kFloat32);
  const auto logits = [&](const Tensor& input) {
    Tensor result = torch::linear(input, weight, head.bias);
    return CapInPlace(result, head.cap);
  };
  const std::vector<Tensor> own = states.split(rows);
  const std::vector<Tensor> others = reference.states.split(rows);
  std::vector<Tensor> values;
  std::vector<Tensor> gradients;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const Tensor capped = logits(own[i]);
    const Tensor log_q = torch::log_softmax(capped, 1);
    const Tensor log_p = torch::log_softmax(logits(others[i]), 1);
    Tensor p = log_p.exp();
    if (reference.next.ids.defined()) {
      const Tensor ids =
          reference.next.ids.narrow(0, static_cast<std::int64_t>(i) * rows, p.size(0));
      const Tensor share = ShareOf({ids, reference.next.share});
      p.mul_(1 - share).scatter_add_(1, ids.clamp_min(0).unsqueeze(1), share);
    }
    values.push_back((p * (log_p - log_q)).sum(1));
    if (!with_gradient) continue;
    gradients.push_back(((log_q.exp() - p) * CapSlope(capped, head.cap)).mm(weight));
  }
  return {torch::cat(values), with_gradient ? torch::cat(gradients) : Tensor()};
}

/// The mean of a loss that was computed with its gradient.
class MeanLoss : public torch::autograd::Function<MeanLoss> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& states, const Tensor& values,
                        const Tensor& gradient) {
    context->save_for_backward({gradient});
    context->saved_data["shape"] = states.sizes();
    return values.mean();
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    const Tensor gradient = context->get_saved_variables()[0];
    const double tokens = static_cast<double>(gradient.size(0));
    return {(gradient * (upstream[0] / tokens)).view(context->saved_data["shape"].toIntVector()),
            Tensor(), Tensor()};
  }
};

/// `loss` computes by token, from states [tokens, embedding_size].
template <typename Loss>
Tensor Mean(const Tensor& states, const Loss& loss) {
  const bool with_gradient = torch::GradMode::is_enabled() && states.requires_grad();
  TokenLoss by_token;
  {
    const torch::NoGradGuard no_gradient;
    by_token = loss(states.detach().flatten(0, -2).contiguous(), with_gradient);
  }
  return with_gradient ? MeanLoss::apply(states, by_token.value, by_token.gradient)
                       : by_token.value.mean();
}

}  // namespace

Tensor HeadCrossEntropy(const Decoder& decoder, const Tensor& states, const Tensor& next) {
  return Mean(states, [&](const Tensor& tokens, bool with_gradient) {
    return CrossEntropy(HeadOf(decoder, decoder.head_products), tokens, next.to(tokens.device()),
                        with_gradient);
  });
}

Tensor HeadTokenLosses(const Decoder& decoder, const Tensor& states, const Tensor& next) {
  const torch::NoGradGuard no_gradient;
  const Tensor tokens = states.flatten(0, -2).contiguous();
  return CrossEntropy(HeadOf(decoder), tokens, next.to(tokens.device()), /*with_gradient=*/false)
      .value;
}

HeadReference MakeHeadReference(const Decoder& decoder, const Tensor& states,
                                const NextTokens& next) {
  const torch::NoGradGuard no_gradient;
  const Head head = HeadOf(decoder);
  if (head.cap > 0) return {states, {}, {}, next};
  const Softmax softmax =
      SoftmaxBySlices(head, states.flatten(0, -2).contiguous(), /*with_rows=*/true);
  HeadReference reference{
      states, softmax.mean_row.view_as(states),
      softmax.log_sum.view(states.sizes().slice(0, static_cast<std::size_t>(states.dim() - 1)))};
  if (next.ids.defined()) {
    const Tensor rows = head.weight.index_select(0, next.ids.clamp_min(0).flatten())
                            .to(torch::kFloat32)
                            .view_as(states);
    reference.mean_row = reference.mean_row.lerp(rows, ShareOf(next));
  }
  return reference;
}

HeadReference Select(const HeadReference& reference, const Tensor& indices,
                     const torch::Device& device) {
  const Tensor chosen = indices.to(reference.states.device());
  const auto select = [&](const Tensor& tensor) {
    return tensor.defined() ? tensor.index_select(0, chosen).to(device) : Tensor();
  };
  return {select(reference.states),
          select(reference.mean_row),
          select(reference.log_sum),
          {select(reference.next.ids), reference.next.share}};
}

Tensor HeadDivergence(const Decoder& decoder, const Tensor& states,
                      const HeadReference& reference) {
  const Head head = HeadOf(decoder);
  HeadReference flat{reference.states.flatten(0, -2), {}, {}, reference.next};
  if (flat.next.ids.defined()) flat.next.ids = flat.next.ids.flatten();
  if (head.cap == 0) {
    flat.mean_row = reference.mean_row.flatten(0, -2);
    flat.log_sum = reference.log_sum.flatten();
  }
  return Mean(states, [&](const Tensor& tokens, bool with_gradient) {
    return head.cap > 0 ? CappedDivergence(head, tokens, flat, with_gradient)
                        : Divergence(head, tokens, flat, with_gradient);
  });
}

}  // namespace teq::model
