#include "client/model_info/format_rules.h"

#include <gmock/gmock.h>

#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class FormatRulesTest : public testing::Test {
 protected:
  FormatRulesTest() {
    SetModel({{"model_type", "llama"},
              {"hidden_size", 64},
              {"intermediate_size", 172},
              {"num_hidden_layers", 5},
              {"num_attention_heads", 8},
              {"num_key_value_heads", 4},
              {"vocab_size", 512},
              {"max_position_embeddings", 512},
              {"tie_word_embeddings", true}});
    SetGrid(4, 4, false);
  }

  void SetModel(const nlohmann::ordered_json& json) {
    config_ = ParseModelConfig(json, "config.json").value();
  }

  void SetGrid(int bits, int group_size, bool symmetric) {
    teq::v1::Weights& weights = *spec_.mutable_recipe()->mutable_weights();
    weights.set_bits(bits);
    weights.set_group_size(group_size);
    weights.set_symmetric(symmetric);
  }

  teq::v1::Override& AddOverride(const std::string& match) {
    teq::v1::Override& entry = *spec_.mutable_recipe()->add_overrides();
    entry.set_match(match);
    return entry;
  }

  absl::Status Check(const std::vector<teq::v1::Format>& formats) {
    spec_.mutable_output()->mutable_formats()->Assign(formats.begin(), formats.end());
    const auto plan = PlanLayers(spec_, config_);
    if (!plan.ok()) return plan.status();
    return CheckFormats(spec_, config_, *plan, "");
  }

  void ExpectHolds(teq::v1::Format format) {
    const absl::Status status = Check({format});
    EXPECT_TRUE(status.ok()) << status;
  }

  /// The message of a refusal with this reason.
  std::string Refusal(teq::v1::Format format, const std::string& reason) {
    const absl::Status status = Check({format});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ErrorReason(status), reason);
    return std::string(status.message());
  }

  ModelConfig config_;
  teq::v1::JobSpec spec_;
};

TEST_F(FormatRulesTest, GptqNeedsZeroPointsThatFillWords) {
  SetGrid(3, 32, false);
  AddOverride("re:.*\\.down_proj").set_skip(true);
  // 172 outputs of 3 bits are 16.125 words.
  EXPECT_THAT(
      Refusal(teq::v1::FORMAT_GPTQ, "SHAPE_NOT_PACKABLE"),
      AllOf(HasSubstr("format GPTQ: 3-bit zero points of a group do not fill 32-bit words in "
                      "model.layers.0.mlp.gate_proj (172 outputs)"),
            HasSubstr("and 6 more"),
            HasSubstr(R"x(overrides: [{match: "re:.*\\.(gate_proj|up_proj)", skip: true}])x"),
            HasSubstr("formats that hold this plan as it is: COMPRESSED_TENSORS, "
                      "DEQUANTIZED")));
  ExpectHolds(teq::v1::FORMAT_COMPRESSED_TENSORS);
  AddOverride("re:.*\\.(gate_proj|up_proj)").set_skip(true);
  ExpectHolds(teq::v1::FORMAT_GPTQ);
}

TEST_F(FormatRulesTest, OnlyTheFormatsThatAreAskedForCount) {
  SetGrid(3, 4, false);
  EXPECT_FALSE(Check({teq::v1::FORMAT_COMPRESSED_TENSORS, teq::v1::FORMAT_GPTQ}).ok());
  ExpectHolds(teq::v1::FORMAT_COMPRESSED_TENSORS);
  ExpectHolds(teq::v1::FORMAT_DEQUANTIZED);
}

TEST_F(FormatRulesTest, LayersWhoseBitsAreChosenLaterMustBePackableAtEveryWidth) {
  SetGrid(8, 32, false);
  AddOverride("re:.*\\.down_proj").set_skip(true);
  spec_.mutable_recipe()->mutable_weights()->clear_bits();
  // 172 outputs of 8 bits are 43 words; of 3 bits they are 16.125.
  spec_.mutable_recipe()->mutable_weights()->set_target_bits(8);
  EXPECT_THAT(Refusal(teq::v1::FORMAT_GPTQ, "SHAPE_NOT_PACKABLE"),
              HasSubstr("model.layers.0.mlp.gate_proj (172 outputs)"));
  AddOverride("re:.*\\.(gate_proj|up_proj)").mutable_weights()->set_bits(8);
  ExpectHolds(teq::v1::FORMAT_GPTQ);
}

TEST_F(FormatRulesTest, AwqHoldsFourBits) {
  AddOverride("re:.*\\.(gate_proj|up_proj)").set_skip(true);
  for (const int bits : {2, 3, 8}) {
    SetGrid(bits, 4, false);
    EXPECT_THAT(Refusal(teq::v1::FORMAT_AWQ, "FORMAT_CANNOT_HOLD"),
                AllOf(HasSubstr("format AWQ: holds codes of 4 bits alone"),
                      HasSubstr("give bits: 4"), Not(HasSubstr("skip: true"))));
  }
  SetGrid(4, 4, false);
  ExpectHolds(teq::v1::FORMAT_AWQ);
  AddOverride("re:.*\\.down_proj").mutable_weights()->set_bits(8);
  EXPECT_THAT(Refusal(teq::v1::FORMAT_AWQ, "FORMAT_CANNOT_HOLD"),
              AllOf(HasSubstr("model.layers.0.mlp.down_proj (8 bits)"),
                    HasSubstr(R"x(overrides: [{match: "re:.*\\.(down_proj)", skip: true}])x"),
                    HasSubstr("as it is: GPTQ, COMPRESSED_TENSORS, DEQUANTIZED")));
}

TEST_F(FormatRulesTest, AwqHoldsNoChosenBits) {
  AddOverride("re:.*\\.(gate_proj|up_proj)").set_skip(true);
  spec_.mutable_recipe()->mutable_weights()->clear_bits();
  spec_.mutable_recipe()->mutable_weights()->set_target_bits(4);
  EXPECT_THAT(Refusal(teq::v1::FORMAT_AWQ, "FORMAT_CANNOT_HOLD"),
              AllOf(HasSubstr("target_bits 4 may give 25 layers other widths"),
                    HasSubstr("model.layers.0.self_attn.q_proj"), HasSubstr("give bits: 4")));
  ExpectHolds(teq::v1::FORMAT_COMPRESSED_TENSORS);
}

TEST_F(FormatRulesTest, AwqHasOneGroupSize) {
  AddOverride("re:.*\\.(gate_proj|up_proj)").set_skip(true);
  AddOverride("re:.*\\.down_proj").mutable_weights()->set_group_size(-1);
  EXPECT_THAT(Refusal(teq::v1::FORMAT_AWQ, "FORMAT_CANNOT_HOLD"),
              AllOf(HasSubstr("one group_size for the whole model, 4, not that of "
                              "model.layers.0.mlp.down_proj (group_size -1)"),
                    HasSubstr("(down_proj)")));
  AddOverride("re:.*self_attn.*").mutable_weights()->set_group_size(-1);
  ExpectHolds(teq::v1::FORMAT_AWQ);
}

// Its zero points are stored whatever they are.
TEST_F(FormatRulesTest, AwqHoldsSymmetricLayersBesideOthers) {
  AddOverride("re:.*\\.(gate_proj|up_proj)").set_skip(true);
  AddOverride("re:.*\\.down_proj").mutable_weights()->set_symmetric(true);
  ExpectHolds(teq::v1::FORMAT_AWQ);
}

TEST_F(FormatRulesTest, AwqNeedsOutputsThatFillWords) {
  // 172 outputs are 21.5 words.
  EXPECT_THAT(Refusal(teq::v1::FORMAT_AWQ, "SHAPE_NOT_PACKABLE"),
              AllOf(HasSubstr("model.layers.0.mlp.gate_proj (172 outputs)"),
                    HasSubstr(R"x([{match: "re:.*\\.(gate_proj|up_proj)", skip: true}])x")));
}

TEST_F(FormatRulesTest, TransposedLayersNeedALoaderThatHasThem) {
  SetModel({{"model_type", "gpt2"},
            {"n_embd", 64},
            {"n_head", 4},
            {"n_layer", 1},
            {"n_positions", 512},
            {"vocab_size", 512}});
  SetGrid(4, 32, false);
  for (const teq::v1::Format format : {teq::v1::FORMAT_AWQ, teq::v1::FORMAT_COMPRESSED_TENSORS}) {
    EXPECT_THAT(Refusal(format, "FORMAT_CANNOT_HOLD"),
                AllOf(HasSubstr("transformer.h.0.attn.c_attn ([64, 192])"), HasSubstr("gpt2"),
                      HasSubstr("as it is: GPTQ, DEQUANTIZED")));
  }
  ExpectHolds(teq::v1::FORMAT_GPTQ);
}

TEST_F(FormatRulesTest, ExpertsAreHeldLikeOtherLayers) {
  SetModel({{"model_type", "mixtral"},
            {"hidden_size", 64},
            {"intermediate_size", 128},
            {"num_hidden_layers", 1},
            {"num_attention_heads", 8},
            {"num_key_value_heads", 4},
            {"num_local_experts", 3},
            {"num_experts_per_tok", 2},
            {"vocab_size", 512},
            {"max_position_embeddings", 512}});
  SetGrid(4, 32, false);
  EXPECT_TRUE(Check({teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_AWQ, teq::v1::FORMAT_COMPRESSED_TENSORS,
                     teq::v1::FORMAT_DEQUANTIZED})
                  .ok());
  AddOverride("re:.*experts\\.1\\.w2").mutable_weights()->set_bits(8);
  EXPECT_THAT(Refusal(teq::v1::FORMAT_AWQ, "FORMAT_CANNOT_HOLD"),
              HasSubstr("model.layers.0.block_sparse_moe.experts.1.w2 (8 bits)"));
}

}  // namespace
}  // namespace teq::model_info
