#include "client/model_info/model_config.h"

#include <gmock/gmock.h>

#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

Json TinyConfig() {
  return {{"model_type", "llama"},       {"hidden_size", 64},        {"intermediate_size", 172},
          {"num_hidden_layers", 5},      {"num_attention_heads", 8}, {"num_key_value_heads", 4},
          {"vocab_size", 512},           {"rms_norm_eps", 1e-5},     {"hidden_act", "silu"},
          {"tie_word_embeddings", true}, {"rope_theta", 10000.0}};
}

void ExpectError(const Json& json, const std::string& reason, const std::string& message) {
  const auto config = ParseModelConfig(json, "config.json");
  ASSERT_FALSE(config.ok()) << message;
  EXPECT_EQ(ErrorReason(config.status()), reason);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(message));
}

TEST(ModelConfigTest, ReadsALlamaWithGroupedQueriesAndATiedHead) {
  const auto config = ParseModelConfig(TinyConfig(), "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_size, 8);
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_FALSE(config->rotary.scaling);
}

TEST(ModelConfigTest, HeadSizeMayDifferFromHiddenOverHeads) {
  Json json = TinyConfig();
  json["head_dim"] = 16;
  EXPECT_EQ(ParseModelConfig(json, "config.json")->head_size, 16);
}

TEST(ModelConfigTest, NamesAnUnknownArchitectureAndTheKnownOnes) {
  Json json = TinyConfig();
  json["model_type"] = "t5";
  ExpectError(json, "UNKNOWN_ARCHITECTURE",
              "model_type \"t5\" is not known; known: bloom, falcon, gemma, ");
}

TEST(ModelConfigTest, NamesAMissingKeyAndABadValue) {
  Json json = TinyConfig();
  json.erase("vocab_size");
  ExpectError(json, "INVALID_MODEL_CONFIG", "vocab_size is missing");
  json = TinyConfig();
  json["hidden_size"] = -64;
  ExpectError(json, "INVALID_MODEL_CONFIG", "hidden_size is -64");
  json = TinyConfig();
  json["num_hidden_layers"] = "five";
  ExpectError(json, "INVALID_MODEL_CONFIG", "num_hidden_layers is \"five\"");
  json = TinyConfig();
  json["num_key_value_heads"] = 3;
  ExpectError(json, "INVALID_MODEL_CONFIG", "no multiple of num_key_value_heads 3");
  ExpectError(Json::array(), "INVALID_MODEL_CONFIG", "must be a JSON object");
}

TEST(ModelConfigTest, RefusesWhatItCannotRunExactly) {
  Json json = TinyConfig();
  json["rope_scaling"] = {{"rope_type", "mrope"}, {"factor", 4.0}};
  ExpectError(json, "UNSUPPORTED_MODEL", "rope_scaling: type \"mrope\" is not supported");
  json = TinyConfig();
  json["hidden_act"] = "swiglu_limited";
  ExpectError(json, "UNSUPPORTED_MODEL", "hidden_act \"swiglu_limited\"");
  json = TinyConfig();
  json["quantization_config"] = {{"quant_method", "gptq"}};
  ExpectError(json, "UNSUPPORTED_MODEL", "already quantized");
}

TEST(ModelConfigTest, ReadsLlama3Scaling) {
  Json json = TinyConfig();
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};
  const auto config = ParseModelConfig(json, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rotary.scaling->kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(config->rotary.scaling->original_max_positions, 8192);
}

// What a table does not know may change what is computed.
TEST(ModelConfigTest, RefusesAKeyThatItDoesNotKnow) {
  Json json = TinyConfig();
  json["attn_logit_softcapping"] = 50.0;
  ExpectError(json, "UNSUPPORTED_MODEL", "key \"attn_logit_softcapping\" (50.0) is not known");
  json = TinyConfig();
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"mrope_section", {1, 2}}};
  ExpectError(json, "UNSUPPORTED_MODEL", "rope_scaling: key \"mrope_section\"");
}

TEST(ModelConfigTest, AcceptsKeysThatChangeNothing) {
  Json json = TinyConfig();
  json["attention_dropout"] = 0.1;
  json["_name_or_path"] = "here";
  json["attn_logit_softcapping"] = nullptr;
  json["torch_dtype"] = "bfloat16";
  EXPECT_TRUE(ParseModelConfig(json, "config.json").ok());
}

// Variants of a family that its table names.
TEST(ModelConfigTest, RefusesVariantsByName) {
  Json gpt2 = {{"model_type", "gpt2"}, {"n_embd", 32},
               {"n_layer", 2},         {"n_head", 4},
               {"vocab_size", 64},     {"scale_attn_by_inverse_layer_idx", true}};
  ExpectError(gpt2, "UNSUPPORTED_MODEL", "scale_attn_by_inverse_layer_idx is true; only false");
  Json mpt = {{"model_type", "mpt"}, {"d_model", 32},    {"n_layers", 2},
              {"n_heads", 4},        {"vocab_size", 64}, {"attn_config", {{"alibi", false}}}};
  ExpectError(mpt, "UNSUPPORTED_MODEL", "attn_config: alibi is false");
}

TEST(ModelConfigTest, AMissingDirectoryIsNotFound) {
  const auto config = ReadModelConfig("/nonexistent/model");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(config.status()), "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace teq::model_info
