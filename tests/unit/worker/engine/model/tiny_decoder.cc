#include "tests/unit/worker/engine/model/tiny_decoder.h"

#include "torch/utils.h"

namespace teq {

using model_info::NormPlace;
using torch::Tensor;

model::Decoder TinyDecoder(std::uint64_t seed, bool biases) {
  torch::manual_seed(seed);
  const model_info::ModelConfig config =
      model_info::ParseModelConfig({{"model_type", "llama"},
                                    {"hidden_size", 32},
                                    {"intermediate_size", 48},
                                    {"num_hidden_layers", 2},
                                    {"num_attention_heads", 4},
                                    {"num_key_value_heads", 2},
                                    {"vocab_size", 64},
                                    {"max_position_embeddings", 128},
                                    {"rms_norm_eps", 1e-5},
                                    {"tie_word_embeddings", true},
                                    {"attention_bias", biases},
                                    {"mlp_bias", biases}},
                                   "config.json")
          .value();
  const auto norm = [&](std::int64_t width) { return torch::rand({width}) + 0.5; };
  model::Decoder decoder{.config = config};
  decoder.embedding = torch::randn({64, 32});
  decoder.head = decoder.embedding;
  decoder.final_norm = {"model.norm", norm(32)};
  decoder.blocks.resize(2);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto number = static_cast<std::int64_t>(i);
    decoder.blocks[i].number = number;
    for (const NormPlace place : {NormPlace::kAttention, NormPlace::kMlp}) {
      decoder.blocks[i].at(place) = {model_info::NormModules(config, number, place).front(),
                                     norm(32)};
    }
  }
  for (const model_info::LinearLayer& layer : LinearLayers(config)) {
    decoder.blocks[static_cast<std::size_t>(layer.block)].linears.push_back(
        {layer, torch::randn({layer.out, layer.in}) * 0.15,
         biases ? torch::randn({layer.out}) * 0.1 : Tensor()});
  }
  return decoder;
}

std::vector<transform::BlockGrids> UniformGrids(const model::Decoder& decoder,
                                                const LayerGrid& grid) {
  std::vector<transform::BlockGrids> grids;
  for (const model::Block& block : decoder.blocks) grids.emplace_back(block.linears.size(), grid);
  return grids;
}

text::Windows RandomWindows(std::int64_t count, std::int64_t length) {
  const Tensor ids = torch::randint(64, {count, length}, torch::kInt32);
  const auto* begin = ids.data_ptr<std::int32_t>();
  return {count, length, std::vector<std::int32_t>(begin, begin + ids.numel())};
}

}  // namespace teq
