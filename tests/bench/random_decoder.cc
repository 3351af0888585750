#include "tests/bench/random_decoder.h"

#include <array>
#include <cmath>

#include "torch/utils.h"

namespace teq::bench {
namespace {

using model_info::NormPlace;

struct Shape {
  std::string_view name;
  int hidden;
  int mlp;
  int layers;
  int heads;
  bool tied;
};

constexpr std::array<Shape, 3> kShapes = {{{"15m", 288, 768, 6, 6, true},
                                           {"100m", 768, 2048, 12, 12, true},
                                           {"7b", 4096, 11008, 32, 32, false}}};

torch::Tensor RandomMatrix(std::int64_t out, std::int64_t in) {
  return torch::randn({out, in}).div_(std::sqrt(static_cast<double>(in)));
}

model::Norm RandomNorm(const std::string& name, std::int64_t width) {
  return {name, torch::rand({width}) + 0.5, {}};
}

}  // namespace

std::optional<model_info::ModelConfig> ShapeConfig(std::string_view shape) {
  for (const Shape& known : kShapes) {
    if (known.name != shape) continue;
    return model_info::ParseModelConfig({{"model_type", "llama"},
                                         {"hidden_size", known.hidden},
                                         {"intermediate_size", known.mlp},
                                         {"num_hidden_layers", known.layers},
                                         {"num_attention_heads", known.heads},
                                         {"vocab_size", 32000},
                                         {"max_position_embeddings", 4096},
                                         {"tie_word_embeddings", known.tied}},
                                        "the shape")
        .value();
  }
  return std::nullopt;
}

model::Decoder RandomDecoder(const model_info::ModelConfig& config) {
  torch::manual_seed(1);
  model::Decoder decoder{.config = config};
  decoder.embedding = torch::randn({config.vocabulary_size, config.hidden_size});
  decoder.head = config.tied_embeddings ? decoder.embedding
                                        : RandomMatrix(config.vocabulary_size, config.hidden_size);
  decoder.final_norm = RandomNorm("model.norm", config.hidden_size);
  decoder.blocks.resize(static_cast<std::size_t>(config.layers));
  for (std::int64_t number = 0; number < config.layers; ++number) {
    model::Block& block = decoder.blocks[static_cast<std::size_t>(number)];
    block.number = number;
    for (const NormPlace place : {NormPlace::kAttention, NormPlace::kMlp}) {
      const std::vector<std::string> modules = model_info::NormModules(config, number, place);
      block.at(place) = RandomNorm(modules.front(), config.hidden_size);
    }
  }
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(config)) {
    decoder.blocks[static_cast<std::size_t>(layer.block)].linears.push_back(
        {layer, RandomMatrix(layer.out, layer.in), {}});
  }
  return decoder;
}

std::int64_t WeightBytes(const model::Decoder& decoder) {
  std::int64_t count = decoder.embedding.numel() + decoder.final_norm.weight.numel();
  if (!decoder.head.is_same(decoder.embedding)) count += decoder.head.numel();
  for (const model::Block& block : decoder.blocks) {
    for (const model::Norm& norm : block.norms) {
      if (norm.weight.defined()) count += norm.weight.numel();
    }
    for (const model::Linear& linear : block.linears) count += linear.weight.numel();
  }
  return count * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace teq::bench
