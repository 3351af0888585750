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
  EXPECT_FALSE(config->rope_scaling);
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
              "model_type \"t5\" is not known; known: llama, mistral");
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
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  ExpectError(json, "UNSUPPORTED_MODEL", "\"yarn\"");
  json = TinyConfig();
  json["hidden_act"] = "gelu";
  ExpectError(json, "UNSUPPORTED_MODEL", "hidden_act \"gelu\"");
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
  EXPECT_EQ(config->rope_scaling->kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(config->rope_scaling->original_max_positions, 8192);
}

TEST(ModelConfigTest, AMissingDirectoryIsNotFound) {
  const auto config = ReadModelConfig("/nonexistent/model");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(config.status()), "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace teq::model_info
