// Every family's decoder against an implementation of its own (tests/peers/families), and its scale
// groups against the decoder.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "tests/unit/worker/engine/model/family_case.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/fold.h"

namespace teq {
namespace {

using model_info::NormPlace;

using testing::Contains;
using torch::Tensor;

class FamilyTest : public testing::TestWithParam<std::string> {
 protected:
  FamilyTest()
      : directory_(testing::TempDir() + "teq-family-" + GetParam() + std::to_string(getpid())),
        family_(ReadFamilyCase(GetParam())) {}
  ~FamilyTest() override { std::filesystem::remove_all(directory_); }

  model::Decoder Load() {
    WriteCheckpoint(family_, directory_);
    absl::StatusOr<model::Decoder> decoder = model::ReadDecoder(directory_, torch::kCPU);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    return *std::move(decoder);
  }

  [[nodiscard]] double LargestError(const Tensor& logits) const {
    double largest = 0;
    for (std::size_t i = 0; i < family_.positions.size(); ++i) {
      const Tensor error =
          logits[0][family_.positions[i]] - family_.logits[static_cast<std::int64_t>(i)];
      const auto most = error.abs().max().item<double>();
      // std::max would drop a NaN.
      if (most > largest || std::isnan(most)) largest = most;
    }
    return largest;
  }

  std::string directory_;
  FamilyCase family_;
};

// Every layer that a recipe may quantize, so that no group is left out.
std::vector<transform::BlockGrids> AllGrids(const model_info::ModelConfig& config) {
  std::vector<model_info::PlannedLayer> plan;
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(config)) {
    plan.push_back({layer, {layer.quantizable, 4, 8, false}});
  }
  return transform::GridsByBlock(plan);
}

TEST_P(FamilyTest, LogitsEqualTheRecordedOnes) {
  const torch::NoGradGuard no_gradient;
  EXPECT_LT(LargestError(model::Logits(Load(), family_.ids).value()), 1e-4);
}

// Checkpoints that were saved from the family's base model lack its prefix. Those of larger models
// have one of two.
TEST_P(FamilyTest, NamesMayHaveTheOtherPrefix) {
  const absl::StatusOr<model_info::ModelConfig> config =
      model_info::ParseModelConfig(family_.config, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  const std::string other = config->is_part ? "model.language_model." : "";
  for (auto& [name, tensor] : family_.tensors) {
    if (name.starts_with(config->prefix)) {
      name.replace(0, config->prefix.size(), other);
    } else if (name.starts_with(config->head_prefix)) {
      name = name.substr(config->head_prefix.size());
    } else {
      name.insert(0, "model.");
    }
  }
  const torch::NoGradGuard no_gradient;
  EXPECT_LT(LargestError(model::Logits(Load(), family_.ids).value()), 1e-4);
}

TEST_P(FamilyTest, FoldingRandomScalesLeavesTheFunctionUnchanged) {
  const torch::NoGradGuard no_gradient;
  torch::manual_seed(7);
  model::Decoder decoder = Load();
  const auto groups = transform::ScaleGroups(decoder.config, AllGrids(decoder.config));
  const Tensor expected = model::Logits(decoder, family_.ids).value();
  transform::Parameters parameters = transform::PlainParameters(groups, {}, torch::kFloat32);
  for (Tensor& scale : parameters.log_scales) scale = torch::randn_like(scale) * 0.5;
  double moved = 0;
  for (model::Block& block : decoder.blocks) {
    const model::Block folded = transform::FoldBlock(
        block, transform::ResolveScales(block, decoder.config.norm, groups, parameters.log_scales,
                                        torch::kFloat16));
    for (std::size_t i = 0; i < block.linears.size(); ++i) {
      moved += (folded.linears[i].weight - block.linears[i].weight).abs().sum().item<double>();
    }
    block = folded;
  }
  EXPECT_GT(moved, 1);
  const Tensor actual = model::Logits(decoder, family_.ids).value();
  EXPECT_LT(((actual - expected).abs().max() / expected.abs().max()).item<double>(), 1e-4);
}

TEST_P(FamilyTest, EveryWeightIsCountedOnce) {
  const absl::StatusOr<model_info::ModelConfig> config =
      model_info::ParseModelConfig(family_.config, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  std::int64_t count = 0;
  for (const auto& [name, tensor] : family_.tensors) {
    if (name.starts_with(config->head_prefix)) count += tensor.numel();
  }
  EXPECT_EQ(model_info::CountParameters(*config), count);
}

TEST_P(FamilyTest, AKeyThatItsTableDoesNotKnowIsRefusedByName) {
  family_.config["attention_sink_tokens"] = 4;
  const auto config = model_info::ParseModelConfig(family_.config, "config.json");
  ASSERT_FALSE(config.ok());
  EXPECT_THAT(std::string(config.status().message()), testing::HasSubstr("attention_sink_tokens"));
}

INSTANTIATE_TEST_SUITE_P(All, FamilyTest, testing::ValuesIn(FamilyCases()), [](const auto& each) {
  std::string name = each.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

// What a model's groups are, as "producer > consumer, ...", the prefix and the block left out.
std::vector<std::string> GroupNames(const std::string& name, std::int64_t block) {
  const model_info::ModelConfig config =
      model_info::ParseModelConfig(ReadFamilyCase(name).config, "config.json").value();
  std::vector<std::string> layers;
  for (const auto& layer : model_info::LinearLayers(config)) {
    if (layer.block != block) continue;
    const std::string start = config.prefix + "layers." + std::to_string(block) + ".";
    layers.push_back(layer.name.starts_with(start) ? layer.name.substr(start.size()) : layer.name);
  }
  std::vector<std::string> groups;
  for (const auto& group : transform::ScaleGroups(config, AllGrids(config))) {
    if (group.block != static_cast<std::size_t>(block)) continue;
    std::string text = !group.norm                            ? layers[group.linear]
                       : *group.norm == NormPlace::kAttention ? "attention norm"
                                                              : "mlp norm";
    text += " >";
    for (const std::size_t consumer : group.consumers) text += " " + layers[consumer];
    groups.push_back(text);
  }
  return groups;
}

// No scale passes GELU, and a norm that feeds attention and MLP is absorbed by both at once.
TEST(FamilyGroupsTest, PhisOneNormFeedsAttentionAndMlp) {
  EXPECT_THAT(GroupNames("phi", 0),
              testing::ElementsAre(
                  "attention norm > self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.fc1",
                  "self_attn.v_proj > self_attn.dense"));
}

TEST(FamilyGroupsTest, OptsReluLetsScalesPass) {
  const auto groups = GroupNames("opt", 0);
  ASSERT_EQ(groups.size(), 4U);
  EXPECT_THAT(groups[3], testing::EndsWith("fc1 > model.decoder.layers.0.fc2"));
}

// Its norms follow the residual's sum, which the next layers read beside them.
TEST(FamilyGroupsTest, PostNormModelsHaveNoGroupAtTheirNorms) {
  for (const std::string& group : GroupNames("opt-350m", 0)) {
    EXPECT_THAT(group, testing::Not(testing::HasSubstr("norm >")));
  }
  for (const std::string& group : GroupNames("bloom-postnorm", 0)) {
    EXPECT_THAT(group, testing::Not(testing::HasSubstr("norm >")));
  }
  EXPECT_EQ(GroupNames("opt-350m", 0).size(), 2U);        // v > o, fc1 > fc2
  EXPECT_EQ(GroupNames("bloom-postnorm", 0).size(), 1U);  // v > dense; GELU stops the other
}

// Gemma 2's post_attention_layernorm ends the attention; another norm feeds gate and up.
TEST(FamilyGroupsTest, Gemma2ScalesTheNormThatFeedsTheMlp) {
  const model_info::ModelConfig config =
      model_info::ParseModelConfig(ReadFamilyCase("gemma2").config, "config.json").value();
  EXPECT_EQ(config.names.mlp_norm, "layers.{}.pre_feedforward_layernorm");
  EXPECT_THAT(GroupNames("gemma2", 0), Contains("mlp norm > mlp.gate_proj mlp.up_proj"));
}

// Query and key norms rescale what they are given, so nothing is scaled across them.
TEST(FamilyGroupsTest, NothingPassesAQueryOrKeyNorm) {
  for (const char* name : {"qwen3", "gemma3_text"}) {
    const auto groups = GroupNames(name, 0);
    ASSERT_EQ(groups.size(), 4U) << name;
    EXPECT_EQ(groups[1], "self_attn.v_proj > self_attn.o_proj");
  }
}

TEST(FamilyGroupsTest, RoutersAndSharedGatesAreScaledWithTheExperts) {
  EXPECT_THAT(GroupNames("qwen2_moe", 0),
              Contains(testing::StartsWith("mlp norm > mlp.gate mlp.shared_expert_gate "
                                           "mlp.shared_expert.gate_proj")));
  EXPECT_THAT(GroupNames("mixtral", 0),
              Contains("mlp norm > block_sparse_moe.gate block_sparse_moe.experts.0.w1 "
                       "block_sparse_moe.experts.0.w3 block_sparse_moe.experts.1.w1 "
                       "block_sparse_moe.experts.1.w3 block_sparse_moe.experts.2.w1 "
                       "block_sparse_moe.experts.2.w3 block_sparse_moe.experts.3.w1 "
                       "block_sparse_moe.experts.3.w3"));
}

// Clipped values are no linear function of the layer's outputs.
TEST(FamilyGroupsTest, ClippedValuesAreNotScaled) {
  EXPECT_EQ(GroupNames("mpt", 0).size(), 3U);  // attention norm, v > out, mlp norm
  EXPECT_EQ(GroupNames("mpt-clip", 0).size(), 2U);
}

}  // namespace
}  // namespace teq
