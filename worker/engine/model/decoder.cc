#include "worker/engine/model/decoder.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/nn/functional.h"

namespace teq::model {
namespace {

using model_info::ModelConfig;
using model_info::Role;
using model_info::RopeScaling;
using torch::Tensor;

Tensor Apply(const Linear& linear, const Tensor& input) {
  return torch::linear(input, linear.weight, linear.bias);
}

/// RMS norm: x / sqrt(mean(x^2) + epsilon) * w.
Tensor Apply(const Norm& norm, const Tensor& input, double epsilon) {
  const Tensor scale = torch::rsqrt(input.square().mean(-1, /*keepdim=*/true) + epsilon);
  return input * scale * norm.weight;
}

/// Rotary frequencies, radians per position, [head_size / 2]. Llama 3's scaling leaves wavelengths
/// shorter than original/high alone, divides those longer than original/low by the factor, and
/// interpolates between (Llama 3.1 model card; `rope_scaling` of its config.json).
std::vector<double> RotaryFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<std::size_t>(config.head_size / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(config.head_size);
    double frequency = std::pow(config.rope_theta, -exponent);
    if (config.rope_scaling) {
      const RopeScaling& scaling = *config.rope_scaling;
      if (scaling.kind == RopeScaling::Kind::kLinear) {
        frequency /= scaling.factor;
      } else {
        const double turns = static_cast<double>(scaling.original_max_positions) * frequency /
                             (2 * std::numbers::pi);
        const double smooth =
            std::clamp((turns - scaling.low_frequency_factor) /
                           (scaling.high_frequency_factor - scaling.low_frequency_factor),
                       0.0, 1.0);
        frequency = (1 - smooth) * frequency / scaling.factor + smooth * frequency;
      }
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

/// What attention needs to know of positions; see BlockRunner.
struct Positions {
  const Tensor& cosine;
  const Tensor& sine;
  const Tensor& mask;
};

/// Rotary positions in the half-rotation layout of Hugging Face's checkpoints.
/// `heads`: [batch, heads, sequence, head_size].
Tensor Rotate(const Tensor& heads, const Positions& positions) {
  const std::vector<Tensor> half = heads.chunk(2, -1);
  return torch::cat({half[0] * positions.cosine - half[1] * positions.sine,
                     half[1] * positions.cosine + half[0] * positions.sine},
                    -1);
}

/// 0 where position i sees position j, minus infinity elsewhere, [sequence, sequence].
Tensor CausalMask(const ModelConfig& config, std::int64_t length, const torch::Device& device) {
  const auto options = torch::TensorOptions().device(device);
  Tensor hidden = torch::ones({length, length}, options.dtype(torch::kBool)).triu(1);
  if (config.sliding_window > 0 && config.sliding_window < length) {
    hidden |=
        torch::ones({length, length}, options.dtype(torch::kBool)).tril(-config.sliding_window);
  }
  return torch::zeros({length, length}, options.dtype(torch::kFloat32))
      .masked_fill(hidden, -std::numeric_limits<float>::infinity());
}

/// [batch, sequence, heads * head_size] to [batch, heads, sequence, head_size].
Tensor SplitHeads(const Tensor& states, std::int64_t head_size) {
  return states.unflatten(-1, {-1, head_size}).transpose(1, 2);
}

/// Softmax attention; each key-value head serves heads / kv_heads query heads.
Tensor Attend(const ModelConfig& config, const Block& block, const Tensor& input,
              const Positions& positions) {
  const Tensor query =
      Rotate(SplitHeads(Apply(block.at(Role::kQuery), input), config.head_size), positions);
  const Tensor key =
      Rotate(SplitHeads(Apply(block.at(Role::kKey), input), config.head_size), positions);
  const Tensor value = SplitHeads(Apply(block.at(Role::kValue), input), config.head_size);

  // Query heads of one key-value head stand together: [batch, kv_heads, group * sequence,
  // head_size].
  const std::int64_t batch = query.size(0);
  const std::int64_t length = query.size(2);
  const std::int64_t group = config.heads / config.kv_heads;
  const Tensor grouped = query.reshape({batch, config.kv_heads, group * length, config.head_size});
  const double scale = 1 / std::sqrt(static_cast<double>(config.head_size));
  const Tensor scores = torch::matmul(grouped * scale, key.transpose(-1, -2))
                            .view({batch, config.kv_heads, group, length, length});
  const Tensor weights = torch::softmax(scores + positions.mask, -1)
                             .view({batch, config.kv_heads, group * length, length});
  return torch::matmul(weights, value)
      .view({batch, config.heads, length, config.head_size})
      .transpose(1, 2)
      .flatten(2);
}

Tensor RunBlock(const ModelConfig& config, const Block& block, const Tensor& states,
                const Positions& positions, const LinearObserver& observer) {
  const auto observed = [&](Role role, const Tensor& input) {
    if (observer) observer(role, input);
  };
  const Tensor attention_input = Apply(block.attention_norm, states, config.norm_epsilon);
  for (const Role role : {Role::kQuery, Role::kKey, Role::kValue}) observed(role, attention_input);
  const Tensor mixed = Attend(config, block, attention_input, positions);
  observed(Role::kAttentionOutput, mixed);
  const Tensor middle = states + Apply(block.at(Role::kAttentionOutput), mixed);

  const Tensor mlp_input = Apply(block.mlp_norm, middle, config.norm_epsilon);
  for (const Role role : {Role::kGate, Role::kUp}) observed(role, mlp_input);
  const Tensor gated =
      torch::silu(Apply(block.at(Role::kGate), mlp_input)) * Apply(block.at(Role::kUp), mlp_input);
  observed(Role::kDown, gated);
  return middle + Apply(block.at(Role::kDown), gated);
}

absl::StatusOr<Tensor> LoadTensor(const TensorSource& source, const std::string& name,
                                  const torch::Device& device) {
  TEQ_ASSIGN_OR_RETURN(const Tensor stored, source(name));
  return stored.to(device, torch::kFloat32).contiguous();
}

}  // namespace

absl::StatusOr<Decoder> LoadDecoder(const model_info::Architecture& architecture,
                                    const ModelConfig& config,
                                    const model_info::VocabularyTensors& vocabulary,
                                    const TensorSource& source, const torch::Device& device) {
  const auto load_norm = [&](const std::string& name) -> absl::StatusOr<Norm> {
    TEQ_ASSIGN_OR_RETURN(Tensor weight, LoadTensor(source, name + ".weight", device));
    return Norm{name, std::move(weight)};
  };
  Decoder decoder{.config = config};
  TEQ_ASSIGN_OR_RETURN(decoder.embedding, LoadTensor(source, vocabulary.embedding, device));
  decoder.head = decoder.embedding;
  if (vocabulary.head != vocabulary.embedding) {
    TEQ_ASSIGN_OR_RETURN(decoder.head, LoadTensor(source, vocabulary.head, device));
  }
  TEQ_ASSIGN_OR_RETURN(decoder.final_norm, load_norm(std::string(architecture.final_norm)));
  decoder.blocks.resize(static_cast<std::size_t>(config.layers));
  for (std::size_t i = 0; i < decoder.blocks.size(); ++i) {
    const auto number = static_cast<std::int64_t>(i);
    Block& block = decoder.blocks[i];
    TEQ_ASSIGN_OR_RETURN(block.attention_norm,
                         load_norm(model_info::ModuleName(architecture.attention_norm, number)));
    TEQ_ASSIGN_OR_RETURN(block.mlp_norm,
                         load_norm(model_info::ModuleName(architecture.mlp_norm, number)));
  }
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(architecture, config)) {
    Linear& linear = decoder.blocks[static_cast<std::size_t>(layer.block)].at(layer.role);
    linear.name = layer.name;
    TEQ_ASSIGN_OR_RETURN(linear.weight, LoadTensor(source, layer.name + ".weight", device));
    if (layer.bias) {
      TEQ_ASSIGN_OR_RETURN(linear.bias, LoadTensor(source, layer.name + ".bias", device));
    }
  }
  return decoder;
}

BlockRunner::BlockRunner(const Decoder& decoder, std::int64_t length) : decoder_(decoder) {
  const torch::Device device = decoder.embedding.device();
  const Tensor frequencies = torch::tensor(RotaryFrequencies(decoder.config), torch::kFloat64);
  const Tensor angles = torch::outer(torch::arange(length, torch::kFloat64), frequencies);
  cosine_ = angles.cos().to(device, torch::kFloat32);
  sine_ = angles.sin().to(device, torch::kFloat32);
  mask_ = CausalMask(decoder.config, length, device);
}

Tensor BlockRunner::Embed(const Tensor& ids) const {
  return torch::embedding(decoder_.embedding, ids.to(decoder_.embedding.device()));
}

Tensor BlockRunner::Run(const Block& block, const Tensor& states,
                        const LinearObserver& observer) const {
  return RunBlock(decoder_.config, block, states, {cosine_, sine_, mask_}, observer);
}

Tensor BlockRunner::Finish(const Tensor& states) const {
  return Apply(decoder_.final_norm, states, decoder_.config.norm_epsilon);
}

Tensor HiddenStates(const Decoder& decoder, const Tensor& ids) {
  const BlockRunner runner(decoder, ids.size(1));
  Tensor states = runner.Embed(ids);
  for (const Block& block : decoder.blocks) states = runner.Run(block, states);
  return runner.Finish(states);
}

Tensor Logits(const Decoder& decoder, const Tensor& ids) {
  return torch::linear(HiddenStates(decoder, ids), decoder.head);
}

}  // namespace teq::model
