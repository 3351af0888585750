#include "tests/unit/worker/engine/pack/tiny_packable.h"

#include <algorithm>
#include <regex>

namespace teq {

using torch::Tensor;

namespace {

/// Float16, so that the tests' float layers are published as they are.
Tensor Random(c10::IntArrayRef shape) { return (torch::randn(shape) * 0.1).to(torch::kFloat16); }

/// What may be rounded is.
pack::PackableModel Packable(const nlohmann::ordered_json& config, const LayerGrid& grid) {
  torch::manual_seed(1);
  pack::PackableModel model;
  model.config = model_info::ParseModelConfig(config, "config.json").value();
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(model.config)) {
    model.plan.push_back({layer, layer.quantizable ? grid : LayerGrid{.quantized = false}});
    if (!layer.quantizable) continue;
    model.layers[layer.name] =
        quant::QuantizeToNearest(Random({layer.out, layer.in}).to(torch::kFloat32), grid);
  }
  const model_info::VocabularyTensors vocabulary = {"model.embed_tokens.weight", "lm_head.weight"};
  for (const auto& tensor : model_info::ExpectedTensors(model.config, vocabulary)) {
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    if (!model.layers.contains(module))
      model.floats.emplace_back(tensor.name, Random(tensor.shape));
  }
  return model;
}

}  // namespace

pack::PackableModel TinyPackable(const LayerGrid& grid) {
  return Packable({{"model_type", "llama"},
                   {"architectures", {"LlamaForCausalLM"}},
                   {"hidden_size", 128},
                   {"intermediate_size", 256},
                   {"num_hidden_layers", 1},
                   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2},
                   {"vocab_size", 32},
                   {"max_position_embeddings", 64},
                   {"tie_word_embeddings", false},
                   {"torch_dtype", "float32"}},
                  grid);
}

pack::PackableModel TinyMixture(const LayerGrid& grid) {
  return Packable({{"model_type", "qwen2_moe"},
                   {"architectures", {"Qwen2MoeForCausalLM"}},
                   {"hidden_size", 64},
                   {"intermediate_size", 64},
                   {"moe_intermediate_size", 32},
                   {"shared_expert_intermediate_size", 32},
                   {"num_experts", 12},
                   {"num_experts_per_tok", 2},
                   {"num_hidden_layers", 12},
                   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2},
                   {"qkv_bias", false},
                   {"use_sliding_window", false},
                   {"vocab_size", 32},
                   {"max_position_embeddings", 64},
                   {"tie_word_embeddings", false},
                   {"torch_dtype", "float16"}},
                  grid);
}

void RegridWhere(pack::PackableModel& model, const std::string& match, const LayerGrid& grid) {
  const std::regex expression(match);
  std::vector<std::string> names;
  for (const model_info::PlannedLayer& planned : model.plan) {
    if (std::regex_match(planned.layer.name, expression)) names.push_back(planned.layer.name);
  }
  for (const std::string& name : names) Regrid(model, name, grid);
}

void Regrid(pack::PackableModel& model, const std::string& layer, const LayerGrid& grid) {
  const auto planned = std::find_if(model.plan.begin(), model.plan.end(),
                                    [&](const auto& each) { return each.layer.name == layer; });
  planned->grid = grid;
  const Tensor weight = Random({planned->layer.out, planned->layer.in});
  if (grid.quantized) {
    model.layers[layer] = quant::QuantizeToNearest(weight.to(torch::kFloat32), grid);
  } else {
    model.layers.erase(layer);
    model.floats.emplace_back(layer + ".weight", weight);
  }
}

void MakePart(pack::PackableModel& model) {
  const std::string part = "language_model.";
  model.config.is_part = true;
  model.config.head_prefix = part;
  model.config.prefix.insert(0, part);
  model.config.source = {{"text_config", model.config.source}};
  for (model_info::PlannedLayer& planned : model.plan) planned.layer.name.insert(0, part);
  std::map<std::string, quant::Quantized> layers;
  for (const auto& [name, quantized] : model.layers) layers[part + name] = quantized;
  model.layers = std::move(layers);
  for (auto& [name, tensor] : model.floats) name.insert(0, part);
  model.other_parts = {"vision_tower"};
  // Called as a layer of the decoder is.
  model.other_tensors = {{"vision_tower.layers.0.mlp.down_proj.weight", Random({8, 8})},
                         {"vision_tower.patches.weight", Random({4, 3, 2, 2})}};
}

}  // namespace teq
