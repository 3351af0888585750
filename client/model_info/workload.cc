#include "client/model_info/workload.h"

#include <algorithm>
#include <array>
#include <set>

#include "client/model_info/layout.h"

namespace teq::model_info {
namespace {

std::int64_t NormParameters(const ModelConfig& config, std::int64_t block) {
  std::int64_t count = 0;
  for (std::size_t place = 0; place < kNormPlaces; ++place) {
    const auto where = static_cast<NormPlace>(place);
    const bool of_heads = where == NormPlace::kQuery || where == NormPlace::kKey;
    const auto modules = static_cast<std::int64_t>(NormModules(config, block, where).size());
    const std::int64_t width = of_heads ? config.head_size : config.hidden_size;
    count += modules * width * (config.norm_bias && !of_heads ? 2 : 1);
  }
  return count;
}

void AddLayer(const PlannedLayer& planned, const Experts& experts, BlockSize& block) {
  const LinearLayer& layer = planned.layer;
  const std::int64_t weights = layer.in * layer.out;
  block.parameters += weights + (layer.bias ? layer.out : 0);
  block.active += layer.expert < 0 ? weights : weights * experts.per_token / experts.count;
  block.largest_layer = std::max(block.largest_layer, weights);
  if (!planned.grid.quantized) return;
  const std::int64_t group = planned.grid.group_size > 0 ? planned.grid.group_size : layer.in;
  const auto in = static_cast<double>(layer.in);
  const auto out = static_cast<double>(layer.out);
  block.quantized += weights;
  block.groups += weights / group;
  block.widest_input = std::max(block.widest_input, layer.in);
  block.gram_products += out * in * in;
  block.cubes += in * in * in;
  block.group_products += out * in * static_cast<double>(group);
}

std::vector<BlockSize> BlockSizes(const ModelConfig& config,
                                  const std::vector<PlannedLayer>& plan) {
  std::vector<BlockSize> blocks(static_cast<std::size_t>(config.layers));
  std::vector<std::set<int>> inputs(blocks.size());
  std::vector<std::array<std::int64_t, kSteps>> grams_by_step(blocks.size());
  for (const PlannedLayer& planned : plan) {
    const auto number = static_cast<std::size_t>(planned.layer.block);
    AddLayer(planned, config.experts, blocks[number]);
    if (!inputs[number].insert(planned.layer.input).second) continue;
    const std::int64_t gram = planned.layer.in * planned.layer.in;
    blocks[number].grams += gram;
    grams_by_step[number].at(static_cast<std::size_t>(StepOf(planned.layer.input))) += gram;
  }
  for (std::size_t number = 0; number < blocks.size(); ++number) {
    blocks[number].step_grams = std::ranges::max(grams_by_step[number]);
    blocks[number].parameters += NormParameters(config, static_cast<std::int64_t>(number));
  }
  return blocks;
}

/// `join` gives the value of two.
template <typename Join>
void JoinBlock(const BlockSize& block, const Join& join, BlockSize& into) {
  into.parameters = join(into.parameters, block.parameters);
  into.active = join(into.active, block.active);
  into.quantized = join(into.quantized, block.quantized);
  into.groups = join(into.groups, block.groups);
  into.largest_layer = std::max(into.largest_layer, block.largest_layer);
  into.widest_input = std::max(into.widest_input, block.widest_input);
  into.grams = join(into.grams, block.grams);
  into.step_grams = std::max(into.step_grams, block.step_grams);
  into.gram_products = join(into.gram_products, block.gram_products);
  into.cubes = join(into.cubes, block.cubes);
  into.group_products = join(into.group_products, block.group_products);
}

std::int64_t StoredBytes(const nlohmann::ordered_json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto type = config.find(key);
    if (type != config.end() && *type == "float32") return 4;
  }
  return 2;
}

}  // namespace

Workload WorkloadOf(const teq::v1::JobSpec& spec, const ModelConfig& config,
                    const std::vector<PlannedLayer>& plan) {
  const Experts& experts = config.experts;
  Workload work{
      .blocks = config.layers,
      .hidden = config.hidden_size,
      .embedding = config.embedding_size,
      .vocabulary = config.vocabulary_size,
      .mlp = std::max(config.intermediate_size, experts.per_token * experts.intermediate_size +
                                                    experts.shared_intermediate_size),
      .heads = config.heads,
      .head_size = config.head_size,
      .softcap = config.attention_softcap != 0,
      .tied = config.tied_embeddings,
      .stored_bytes = StoredBytes(config.source),
      .parameters = CountParameters(config),
      .window = spec.calibration().sequence_length(),
      .calibration_tokens =
          std::int64_t{spec.calibration().samples()} * spec.calibration().sequence_length()};
  if (!spec.evaluation().uris().empty() || !spec.evaluation().tasks().empty()) {
    work.evaluation_window = spec.evaluation().sequence_length();
  }
  for (const BlockSize& block : BlockSizes(config, plan)) {
    JoinBlock(
        block, [](auto a, auto b) { return std::max(a, b); }, work.largest);
    JoinBlock(
        block, [](auto a, auto b) { return a + b; }, work.total);
  }
  return work;
}

}  // namespace teq::model_info
