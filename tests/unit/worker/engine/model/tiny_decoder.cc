#include "tests/unit/worker/engine/model/tiny_decoder.h"

#include "torch/utils.h"

namespace teq {

using torch::Tensor;

model::Decoder TinyDecoder(std::uint64_t seed, bool biases) {
  torch::manual_seed(seed);
  model_info::ModelConfig config{.model_type = "llama",
                                 .hidden_size = 32,
                                 .intermediate_size = 48,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_size = 8,
                                 .vocabulary_size = 64,
                                 .max_positions = 128,
                                 .attention_bias = biases,
                                 .mlp_bias = biases};
  const model_info::Architecture& architecture = *model_info::FindArchitecture("llama");
  const auto norm = [&](std::int64_t width) { return torch::rand({width}) + 0.5; };
  model::Decoder decoder{.config = config};
  decoder.embedding = torch::randn({64, 32});
  decoder.head = decoder.embedding;
  decoder.final_norm = {"model.norm", norm(32)};
  decoder.blocks.resize(2);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto number = static_cast<std::int64_t>(i);
    decoder.blocks[i].attention_norm = {model_info::ModuleName(architecture.attention_norm, number),
                                        norm(32)};
    decoder.blocks[i].mlp_norm = {model_info::ModuleName(architecture.mlp_norm, number), norm(32)};
  }
  for (const model_info::LinearLayer& layer : LinearLayers(architecture, config)) {
    decoder.blocks[static_cast<std::size_t>(layer.block)].at(layer.role) = {
        layer.name, torch::randn({layer.out, layer.in}) * 0.15,
        biases ? torch::randn({layer.out}) * 0.1 : Tensor()};
  }
  return decoder;
}

std::vector<transform::BlockGrids> UniformGrids(const model::Decoder& decoder,
                                                const LayerGrid& grid) {
  transform::BlockGrids block;
  block.fill(grid);
  return std::vector<transform::BlockGrids>(decoder.blocks.size(), block);
}

text::Windows RandomWindows(std::int64_t count, std::int64_t length) {
  const Tensor ids = torch::randint(64, {count, length}, torch::kInt32);
  const auto* begin = ids.data_ptr<std::int32_t>();
  return {count, length, std::vector<std::int32_t>(begin, begin + ids.numel())};
}

}  // namespace teq
