#include "client/model_info/plan.h"

#include <gmock/gmock.h>

#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using testing::HasSubstr;
using testing::Not;

class PlanTest : public testing::Test {
 protected:
  PlanTest() {
    config_ = ParseModelConfig({{"model_type", "llama"},
                                {"hidden_size", 64},
                                {"intermediate_size", 172},
                                {"num_hidden_layers", 5},
                                {"num_attention_heads", 8},
                                {"num_key_value_heads", 4},
                                {"vocab_size", 512},
                                {"max_position_embeddings", 512},
                                {"tie_word_embeddings", true}},
                               "config.json")
                  .value();
    spec_.mutable_recipe()->mutable_weights()->set_bits(3);
    spec_.mutable_recipe()->mutable_weights()->set_group_size(32);
    spec_.mutable_recipe()->mutable_weights()->set_symmetric(false);
  }

  teq::v1::Override& AddOverride(const std::string& match) {
    teq::v1::Override& entry = *spec_.mutable_recipe()->add_overrides();
    entry.set_match(match);
    return entry;
  }

  absl::StatusOr<std::vector<PlannedLayer>> Plan() { return PlanLayers(spec_, config_); }

  void ExpectError(const std::string& reason, const std::string& message) {
    const auto plan = Plan();
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(ErrorReason(plan.status()), reason);
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(message));
  }

  ModelConfig config_;
  teq::v1::JobSpec spec_;
};

TEST_F(PlanTest, AGroupSizeThatDoesNotDivideNamesTheLayersAndTheOverride) {
  ExpectError("GROUP_SIZE_MISMATCH",
              "group_size does not divide the inputs of model.layers.0.mlp.down_proj (172 inputs, "
              "group_size 32)");
  ExpectError("GROUP_SIZE_MISMATCH",
              R"x(overrides: [{match: "re:.*\\.(down_proj)", skip: true}])x");
}

TEST_F(PlanTest, AGroupSizeThatDividesNothingIsNotAnsweredByLeavingAllFloat) {
  spec_.mutable_recipe()->mutable_weights()->set_group_size(7);
  AddOverride("re:.*\\.down_proj").mutable_weights()->set_group_size(9);
  const std::string message(Plan().status().message());
  EXPECT_THAT(message, HasSubstr("q_proj (64 inputs, group_size 7)"));
  EXPECT_THAT(message, HasSubstr("choose one that does, or -1 for whole rows"));
  EXPECT_THAT(message, Not(HasSubstr("skip")));
}

TEST_F(PlanTest, TheOverrideThatTheMessageNamesMakesThePlanPass) {
  AddOverride("re:.*\\.(gate_proj|up_proj|down_proj)").set_skip(true);
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->size(), 35U);
  EXPECT_TRUE((*plan)[0].grid.quantized);
  EXPECT_EQ((*plan)[0].layer.name, "model.layers.0.self_attn.q_proj");
  EXPECT_FALSE((*plan)[6].grid.quantized);
}

TEST_F(PlanTest, AnOverrideThatMatchesNothingIsAnError) {
  AddOverride("re:.*\\.(gate_proj|up_proj|down_proj)").set_skip(true);
  AddOverride("model.layers.9.mlp.up_proj").mutable_weights()->set_bits(8);
  ExpectError("INVALID_SPEC",
              "recipe.overrides[1].match: \"model.layers.9.mlp.up_proj\" matches no");
}

TEST_F(PlanTest, WindowsLongerThanTheModelsPositionsAreAnError) {
  spec_.mutable_evaluation()->set_sequence_length(513);
  spec_.mutable_evaluation()->clear_uris();
  // Nothing is measured in such windows: what is wrong next is told.
  ExpectError("GROUP_SIZE_MISMATCH", "group_size does not divide");
  spec_.mutable_evaluation()->add_uris("file:///e.txt");
  ExpectError(
      "INVALID_SPEC",
      "evaluation.sequence_length: 513 is more than the model's max_position_embeddings, 512");
}

TEST_F(PlanTest, ARecipeThatQuantizesNothingIsAnError) {
  AddOverride("re:.*").set_skip(true);
  ExpectError("INVALID_SPEC", "every linear layer is skipped");
}

// The demo model: embedding 2048 x 256 once, the final norm, and 4 blocks: 524,288 + 256 + 4 x (512
// + 65,536 + 2 x 32,768 + 65,536 + 3 x 196,608) = 3,672,320.
TEST_F(PlanTest, CountsTheDemoModelsParameters) {
  config_.hidden_size = config_.embedding_size = 256;
  config_.intermediate_size = 768;
  config_.layers = 4;
  config_.head_size = 32;
  config_.vocabulary_size = 2048;
  EXPECT_EQ(CountParameters(config_), 3672320);
}

TEST(CheckTensorsTest, NamesTheMissingTensorAndTheWrongShape) {
  const ModelConfig config = ParseModelConfig({{"model_type", "llama"},
                                               {"hidden_size", 8},
                                               {"intermediate_size", 16},
                                               {"num_hidden_layers", 1},
                                               {"num_attention_heads", 2},
                                               {"num_key_value_heads", 1},
                                               {"vocab_size", 32},
                                               {"tie_word_embeddings", true}},
                                              "config.json")
                                 .value();
  CheckpointIndex index{.directory = "m"};
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    index.tensors[name] = {.name = name,
                           .dtype = DType::kF16,
                           .shape = std::move(shape),
                           .file = "m/model.safetensors"};
  };
  // A tied matrix under the head's name.
  add("lm_head.weight", {32, 8});
  add("model.norm.weight", {8});
  add("model.layers.0.input_layernorm.weight", {8});
  add("model.layers.0.post_attention_layernorm.weight", {8});
  for (const LinearLayer& layer : LinearLayers(config)) {
    add(layer.name + ".weight", {layer.out, layer.in});
  }
  EXPECT_TRUE(CheckTensors(config, index).ok()) << CheckTensors(config, index);
  EXPECT_EQ(FindVocabularyTensors(config, index)->embedding, "lm_head.weight");

  add("model.layers.0.self_attn.k_proj.weight", {8, 8});
  EXPECT_THAT(
      std::string(CheckTensors(config, index).message()),
      HasSubstr("model.layers.0.self_attn.k_proj.weight has shape [8, 8]; config.json needs "
                "[4, 8]"));
  index.tensors.erase("model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(ErrorReason(CheckTensors(config, index)), "INVALID_CHECKPOINT");
  EXPECT_THAT(std::string(CheckTensors(config, index).message()),
              HasSubstr("model.layers.0.self_attn.k_proj.weight is missing"));
}

}  // namespace
}  // namespace teq::model_info
