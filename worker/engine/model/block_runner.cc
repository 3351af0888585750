#include "worker/engine/model/block_runner.h"

#include "proto/spec/error.h"
#include "torch/nn/functional/activation.h"
#include "worker/engine/model/attention.h"
#include "worker/engine/model/linear_product.h"

namespace teq::model {
namespace {

using model_info::Activation;
using model_info::ModelConfig;
using model_info::NormKind;
using model_info::NormPlace;
using model_info::PositionKind;
using model_info::Role;
using torch::Tensor;

Tensor Apply(const Linear& linear, const Tensor& input) {
  return LinearProduct(input, linear.weight, linear.bias, linear.products);
}

/// The input itself where there is no norm.
Tensor Apply(const Norm& norm, const Tensor& input, const ModelConfig& config) {
  if (!norm.weight.defined()) return input;
  if (config.norm == NormKind::kLayer) {
    const Tensor normed =
        torch::layer_norm(input, {input.size(-1)}, {}, {}, config.norm_epsilon) * norm.weight;
    return norm.bias.defined() ? normed + norm.bias : normed;
  }
  const Tensor scale =
      torch::rsqrt(input.square().mean(-1, /*keepdim=*/true) + config.norm_epsilon);
  return input * scale * (config.norm == NormKind::kRmsOnePlus ? norm.weight + 1 : norm.weight);
}

Tensor Apply(Activation activation, const Tensor& input) {
  switch (activation) {
    case Activation::kSilu:
      return torch::silu(input);
    case Activation::kGelu:
      return torch::gelu(input);
    case Activation::kGeluTanh:
      return torch::gelu(input, "tanh");
    case Activation::kRelu:
      return torch::relu(input);
  }
  return input;
}

Tensor SoftCap(const Tensor& values, double cap) {
  return cap > 0 ? torch::tanh(values / cap) * cap : values;
}

/// [batch, sequence, heads * head_size] to [batch, heads, sequence, head_size].
Tensor SplitHeads(const Tensor& states, std::int64_t head_size) {
  return states.unflatten(-1, {-1, head_size}).transpose(1, 2);
}

/// Takes a fused projection's output apart.
Heads SplitFused(const ModelConfig& config, const Tensor& fused) {
  const std::int64_t group = config.heads / config.kv_heads;
  if (!config.qkv_by_head) {
    const std::vector<Tensor> parts =
        fused.split_with_sizes({config.heads * config.head_size, config.kv_heads * config.head_size,
                                config.kv_heads * config.head_size},
                               -1);
    return {SplitHeads(parts[0], config.head_size), SplitHeads(parts[1], config.head_size),
            SplitHeads(parts[2], config.head_size)};
  }
  // [batch, sequence, kv_heads, group + 2, head_size]
  const Tensor by_head = fused.unflatten(-1, {config.kv_heads, group + 2, config.head_size});
  return {by_head.slice(3, 0, group).flatten(2, 3).transpose(1, 2),
          by_head.select(3, group).transpose(1, 2), by_head.select(3, group + 1).transpose(1, 2)};
}

Heads Project(const ModelConfig& config, const Block& block, const Tensor& input) {
  const auto clipped = [&](Role role) {
    const Tensor output = Apply(*block.Find(role), input);
    return config.qkv_clip > 0 ? output.clamp(-config.qkv_clip, config.qkv_clip) : output;
  };
  if (block.Find(Role::kQueryKeyValue) != nullptr) {
    return SplitFused(config, clipped(Role::kQueryKeyValue));
  }
  return {SplitHeads(clipped(Role::kQuery), config.head_size),
          SplitHeads(clipped(Role::kKey), config.head_size),
          SplitHeads(clipped(Role::kValue), config.head_size)};
}

/// A query or key norm over heads, [batch, heads, sequence, head_size].
Tensor NormHeads(const Norm& norm, const Tensor& heads, const ModelConfig& config) {
  if (norm.weight.defined() && norm.weight.dim() == 2) {
    return Apply(Norm{norm.name, norm.weight.unsqueeze(1), {}}, heads, config);
  }
  return Apply(norm, heads, config);
}

/// One MLP, or one expert. `hidden_input` is the number of what its last layer reads.
Tensor RunMlp(const ModelConfig& config, const Block& block, int expert, int hidden_input,
              const Tensor& input, const InputObserver& observer) {
  Tensor hidden;
  if (const Linear* fused = block.Find(Role::kGateUp, expert)) {
    const std::vector<Tensor> halves = Apply(*fused, input).chunk(2, -1);
    hidden = Apply(config.activation, halves[0]) * halves[1];
  } else if (const Linear* gate = block.Find(Role::kGate, expert)) {
    hidden = Apply(config.activation, Apply(*gate, input)) *
             Apply(*block.Find(Role::kUp, expert), input);
  } else {
    hidden = Apply(config.activation, Apply(*block.Find(Role::kUp, expert), input));
  }
  if (observer) observer(hidden_input, hidden);
  return Apply(*block.Find(Role::kDown, expert), hidden);
}

/// Every token goes to the experts that its router's softmax ranks highest (Mixtral, arXiv
/// 2401.04088); a shared expert, where there is one, sees all, by a sigmoid gate of its own.
Tensor RunExperts(const ModelConfig& config, const Block& block, const Tensor& input,
                  const InputObserver& observer) {
  const Tensor tokens = input.flatten(0, -2);
  const Tensor scores = torch::softmax(Apply(*block.Find(Role::kRouter), tokens), -1);
  auto [weights, chosen] = scores.topk(config.experts.per_token, -1);
  if (config.experts.normalized) weights = weights / weights.sum(-1, /*keepdim=*/true);
  Tensor output = torch::zeros_like(tokens);
  for (int expert = 0; expert < static_cast<int>(config.experts.count); ++expert) {
    const std::vector<Tensor> found = torch::where(chosen == expert);
    const Tensor& rows = found[0];
    if (rows.numel() == 0) continue;
    const Tensor routed = tokens.index_select(0, rows);
    if (observer) observer(model_info::ExpertInput(expert), routed);
    const Tensor result =
        RunMlp(config, block, expert, model_info::ExpertHidden(expert), routed, observer);
    output.index_add_(0, rows, result * weights.index({rows, found[1]}).unsqueeze(-1));
  }
  if (block.Find(Role::kDown) != nullptr) {
    Tensor shared = RunMlp(config, block, -1, model_info::kMlpHidden, tokens, observer);
    if (const Linear* gate = block.Find(Role::kSharedExpertGate)) {
      shared = shared * torch::sigmoid(Apply(*gate, tokens));
    }
    output = output + shared;
  }
  return output.view_as(input);
}

Tensor RunFeedForward(const ModelConfig& config, const Block& block, const Tensor& input,
                      const InputObserver& observer) {
  if (config.IsSparse(block.number)) return RunExperts(config, block, input, observer);
  return RunMlp(config, block, -1, model_info::kMlpHidden, input, observer);
}

}  // namespace

BlockRunner::BlockRunner(const Decoder& decoder, std::int64_t length) : decoder_(decoder) {
  const torch::Device device = decoder.embedding.device();
  const ModelConfig& config = decoder.config;
  if (config.positions == PositionKind::kRotary) {
    rotary_ = MakeRotaryTable(config.rotary, length, device);
    if (config.local_rotary) local_rotary_ = MakeRotaryTable(*config.local_rotary, length, device);
  }
  const bool masked = !AttendsInOnePass(device, config.attention_softcap);
  for (std::int64_t block = 0; block < config.layers; ++block) {
    Tensor& mask = mask_[config.Window(block)];
    if (masked && !mask.defined()) mask = AttentionMask(config.Window(block), length, device);
  }
  if (config.positions == PositionKind::kAlibi) alibi_ = AlibiBias(config, length, device);
}

Tensor BlockRunner::Embed(const Tensor& ids) const {
  const ModelConfig& config = decoder_.config;
  Tensor states =
      torch::embedding(decoder_.embedding, ids.to(decoder_.embedding.device())).to(torch::kFloat32);
  if (config.embedding_scale != 1) states = states * config.embedding_scale;
  if (decoder_.project_in.defined()) states = torch::linear(states, decoder_.project_in);
  if (decoder_.positions.defined()) {
    states = states + decoder_.positions.slice(0, config.position_offset,
                                               config.position_offset + ids.size(1));
  }
  return Apply(decoder_.embedding_norm, states, config);
}

Tensor BlockRunner::Attend(const Block& block, const Tensor& input,
                           const InputObserver& observer) const {
  const ModelConfig& config = decoder_.config;
  const std::int64_t window = config.Window(block.number);
  Heads heads = Project(config, block, input);
  heads.query = NormHeads(block.at(NormPlace::kQuery), heads.query, config);
  heads.key = NormHeads(block.at(NormPlace::kKey), heads.key, config);
  AttentionSetting setting{.scale = config.AttentionScale(block.number),
                           .softcap = config.attention_softcap,
                           .window = window,
                           .mask = mask_.at(window),
                           .alibi = alibi_};
  if (config.positions == PositionKind::kRotary) {
    const bool local = window > 0 && config.local_rotary.has_value();
    setting.rotary = local ? &*config.local_rotary : &config.rotary;
    setting.table = local ? &local_rotary_ : &rotary_;
  }
  const Tensor mixed = model::Attend(heads, setting);
  if (observer) observer(model_info::kAttentionMix, mixed);
  return Apply(*block.Find(Role::kAttentionOutput), mixed);
}

Tensor BlockRunner::Run(const Block& block, const Tensor& states,
                        const InputObserver& observer) const {
  const ModelConfig& config = decoder_.config;
  const auto norm = [&](NormPlace place, const Tensor& input) {
    return Apply(block.at(place), input, config);
  };
  const Tensor input = config.post_norm ? states : norm(NormPlace::kAttention, states);
  if (observer) observer(model_info::kAttentionInput, input);
  const Tensor attention = norm(NormPlace::kPostAttention, Attend(block, input, observer));
  const bool shared_input = config.names.mlp_norm.empty();
  if (config.parallel) {
    const Tensor mlp_input = shared_input ? input : norm(NormPlace::kMlp, states);
    if (observer && !shared_input) observer(model_info::kMlpInput, mlp_input);
    return states + attention + RunFeedForward(config, block, mlp_input, observer);
  }
  Tensor middle = (config.residual_from_norm ? input : states) + attention;
  if (config.post_norm) middle = norm(NormPlace::kAttention, middle);
  const Tensor mlp_input = config.post_norm ? middle : norm(NormPlace::kMlp, middle);
  if (observer) observer(model_info::kMlpInput, mlp_input);
  const Tensor output =
      (config.residual_from_norm ? mlp_input : middle) +
      norm(NormPlace::kPostMlp, RunFeedForward(config, block, mlp_input, observer));
  return config.post_norm ? norm(NormPlace::kMlp, output) : output;
}

Tensor BlockRunner::Finish(const Tensor& states) const {
  const Tensor normed = Apply(decoder_.final_norm, states, decoder_.config);
  return decoder_.project_out.defined() ? torch::linear(normed, decoder_.project_out) : normed;
}

absl::StatusOr<Tensor> HiddenStates(const Decoder& decoder, const Tensor& ids) {
  const BlockRunner runner(decoder, ids.size(1));
  Tensor states = runner.Embed(ids);
  for (std::size_t number = 0; number < decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(const Block block, decoder.ReadBlock(number));
    states = runner.Run(block, states);
  }
  return runner.Finish(states);
}

Decoder WithFloat32Head(Decoder decoder) {
  decoder.head = decoder.head.to(torch::kFloat32);
  return decoder;
}

Tensor HeadLogits(const Decoder& decoder, const Tensor& states) {
  return SoftCap(torch::linear(states, decoder.head.to(torch::kFloat32), decoder.head_bias),
                 decoder.config.logit_softcap);
}

absl::StatusOr<Tensor> Logits(const Decoder& decoder, const Tensor& ids) {
  TEQ_ASSIGN_OR_RETURN(const Tensor states, HiddenStates(decoder, ids));
  return HeadLogits(decoder, states);
}

}  // namespace teq::model
