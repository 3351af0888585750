#include "worker/engine/model/attention.h"

#include <utility>
#include <vector>

#include "ATen/Parallel.h"
#include "torch/autograd.h"
#include "worker/engine/model/attention_kernels.h"

namespace teq::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The setting as autograd can keep it: tensors, an absent one empty, and numbers.
struct KernelSetting {
  Tensor cosine;  // [length, dimensions / 2]
  Tensor sine;
  Tensor key_bias;  // [heads, length]
  double scale = 1;
  std::int64_t window = 0;
  std::int64_t rotary_dimensions = 0;
  bool interleaved = false;
};

KernelSetting ForKernel(const AttentionSetting& setting, const Heads& heads) {
  const Tensor nothing = torch::empty({0}, heads.query.options());
  KernelSetting result{.cosine = nothing,
                       .sine = nothing,
                       .key_bias = nothing,
                       .scale = setting.scale,
                       .window = setting.window};
  if (setting.rotary != nullptr) {
    result.cosine = setting.table->cosine.contiguous();
    result.sine = setting.table->sine.contiguous();
    result.rotary_dimensions = setting.rotary->dimensions;
    result.interleaved = setting.rotary->interleaved;
  }
  if (setting.alibi.defined()) {
    result.key_bias = setting.alibi.expand({-1, -1, 1, heads.query.size(2)})
                          .reshape({heads.query.size(1), heads.query.size(2)})
                          .contiguous();
  }
  return result;
}

cpu::AttentionProblem ProblemOf(const Tensor& query, const KernelSetting& setting) {
  return {.length = query.size(2),
          .size = query.size(3),
          .window = setting.window,
          .scale = static_cast<float>(setting.scale),
          .rotary_dimensions = setting.rotary_dimensions,
          .interleaved = setting.interleaved,
          .cosine = setting.cosine.data_ptr<float>(),
          .sine = setting.sine.data_ptr<float>()};
}

/// The rows of one head of [batch, heads, sequence, head_size].
cpu::HeadRows RowsOf(const Tensor& heads, std::int64_t window, std::int64_t head) {
  if (!heads.defined()) return {};
  return {heads.data_ptr<float>() + window * heads.stride(0) + head * heads.stride(1),
          heads.stride(2)};
}

/// The query heads of one key-value head; `output` and `gradient` are shaped as queries are.
std::vector<cpu::AttentionHead> QueryHeads(const Tensor& query, const Tensor& output,
                                           const Tensor& gradient, const Tensor& log_sum,
                                           const Tensor& key_bias, std::int64_t window,
                                           std::pair<std::int64_t, std::int64_t> range) {
  std::vector<cpu::AttentionHead> result;
  for (std::int64_t head = range.first; head < range.second; ++head) {
    result.push_back(
        {.query = RowsOf(query, window, head),
         .output = RowsOf(output, window, head),
         .query_gradient = RowsOf(gradient, window, head),
         .log_sum = log_sum.data_ptr<float>() + (window * query.size(1) + head) * query.size(2),
         .key_bias =
             key_bias.numel() == 0 ? nullptr : key_bias.data_ptr<float>() + head * query.size(2)});
  }
  return result;
}

/// Calls `run` with every window and key-value head, and its range of query heads.
template <typename Run>
void ForEachKeyHead(const Tensor& query, const Tensor& key, const Run& run) {
  const std::int64_t key_heads = key.size(1);
  const std::int64_t group = query.size(1) / key_heads;
  at::parallel_for(0, query.size(0) * key_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t head = i % key_heads;
      run(i / key_heads, head, std::pair(head * group, (head + 1) * group));
    }
  });
}

Tensor WithDenseRows(const Tensor& heads) {
  return heads.stride(3) == 1 ? heads : heads.contiguous();
}

/// [batch, heads, sequence, head_size], in memory as [batch, sequence, heads, head_size].
Tensor EmptyHeads(const Tensor& like) {
  return torch::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options())
      .transpose(1, 2);
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& query, const Tensor& key,
                        const Tensor& value, const Tensor& cosine, const Tensor& sine,
                        const Tensor& key_bias, double scale, std::int64_t window,
                        std::int64_t rotary_dimensions, bool interleaved) {
    const KernelSetting setting{cosine,     sine, key_bias, scale, window, rotary_dimensions,
                                interleaved};
    const cpu::AttentionProblem problem = ProblemOf(query, setting);
    const Tensor output = EmptyHeads(query);
    const Tensor log_sum =
        torch::empty({query.size(0), query.size(1), query.size(2)}, query.options());
    ForEachKeyHead(query, key, [&](std::int64_t batch, std::int64_t head, const auto& range) {
      cpu::Attend(problem, RowsOf(key, batch, head), RowsOf(value, batch, head),
                  QueryHeads(query, output, {}, log_sum, key_bias, batch, range));
    });
    context->save_for_backward({query, key, value, cosine, sine, key_bias, log_sum});
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
    context->saved_data["rotary_dimensions"] = rotary_dimensions;
    context->saved_data["interleaved"] = interleaved;
    return output.transpose(1, 2).flatten(2);
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    const variable_list saved = context->get_saved_variables();
    const Tensor& query = saved[0];
    const Tensor& key = saved[1];
    const Tensor& value = saved[2];
    const KernelSetting setting{saved[3],
                                saved[4],
                                saved[5],
                                context->saved_data["scale"].toDouble(),
                                context->saved_data["window"].toInt(),
                                context->saved_data["rotary_dimensions"].toInt(),
                                context->saved_data["interleaved"].toBool()};
    const cpu::AttentionProblem problem = ProblemOf(query, setting);
    const Tensor output_gradient =
        upstream[0].contiguous().unflatten(-1, {query.size(1), query.size(3)}).transpose(1, 2);
    const Tensor to_query = EmptyHeads(query);
    const Tensor to_key = EmptyHeads(key);
    const Tensor to_value = EmptyHeads(value);
    ForEachKeyHead(query, key, [&](std::int64_t batch, std::int64_t head, const auto& range) {
      cpu::AttendGradient(
          problem, RowsOf(key, batch, head), RowsOf(value, batch, head),
          QueryHeads(query, output_gradient, to_query, saved[6], saved[5], batch, range),
          RowsOf(to_key, batch, head), RowsOf(to_value, batch, head));
    });
    return {to_query, to_key,   to_value, Tensor(), Tensor(),
            Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor Turned(const Tensor& heads, const AttentionSetting& setting) {
  return setting.rotary == nullptr ? heads : Rotate(heads, *setting.rotary, *setting.table);
}

}  // namespace

bool AttendsInOnePass(const torch::Device& device, double softcap) {
  return device.is_cpu() && softcap == 0;
}

Tensor Attend(const Heads& heads, const AttentionSetting& setting) {
  if (!AttendsInOnePass(heads.query.device(), setting.softcap)) {
    return AttendByOperators(heads, setting);
  }
  const KernelSetting kernel = ForKernel(setting, heads);
  return AttentionFunction::apply(WithDenseRows(heads.query), WithDenseRows(heads.key),
                                  WithDenseRows(heads.value), kernel.cosine, kernel.sine,
                                  kernel.key_bias, kernel.scale, kernel.window,
                                  kernel.rotary_dimensions, kernel.interleaved);
}

Tensor AttendByOperators(const Heads& heads, const AttentionSetting& setting) {
  const Tensor query = Turned(heads.query, setting);
  const Tensor key = Turned(heads.key, setting);
  const std::int64_t batch = query.size(0);
  const std::int64_t query_heads = query.size(1);
  const std::int64_t key_heads = key.size(1);
  const std::int64_t length = query.size(2);
  const std::int64_t size = query.size(3);
  const std::int64_t group = query_heads / key_heads;
  // Query heads of one key-value head stand together: [batch, kv_heads, group * sequence,
  // head_size].
  const Tensor grouped = query.reshape({batch, key_heads, group * length, size});
  Tensor scores = torch::matmul(grouped * setting.scale, key.transpose(-1, -2))
                      .view({batch, key_heads, group, length, length});
  if (setting.softcap > 0) scores = torch::tanh(scores / setting.softcap) * setting.softcap;
  scores = scores + setting.mask;
  if (setting.alibi.defined()) scores = scores + setting.alibi;
  const Tensor weights =
      torch::softmax(scores, -1).view({batch, key_heads, group * length, length});
  return torch::matmul(weights, heads.value)
      .view({batch, query_heads, length, size})
      .transpose(1, 2)
      .flatten(2);
}

}  // namespace teq::model
