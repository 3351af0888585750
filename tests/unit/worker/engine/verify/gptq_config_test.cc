#include "worker/engine/verify/gptq_config.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

Json Base() {
  return Json::parse(R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false,
                         "desc_act": false, "checkpoint_format": "gptq"})");
}

TEST(GptqConfigTest, LayersOfBlocksArePackedAndTheRestIsFloat) {
  const auto config = GptqConfig::Parse(Base());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->ClaimOf("model.layers.0.mlp.up_proj").packed);
  EXPECT_EQ(config->ClaimOf("model.layers.0.mlp.up_proj").bits, 4);
  EXPECT_EQ(config->ClaimOf("model.layers.0.mlp.up_proj").group_size, 32);
  EXPECT_FALSE(config->ClaimOf("model.embed_tokens").packed);
  EXPECT_FALSE(config->ClaimOf("lm_head").packed);
}

TEST(GptqConfigTest, HeadIsPackedWhereTheConfigSaysSo) {
  Json json = Base();
  json["lm_head"] = true;
  const auto config = GptqConfig::Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->ClaimOf("lm_head").packed);
}

TEST(GptqConfigTest, FirstMatchingRuleDecidesAndMatchesFromTheStart) {
  Json json = Base();
  json["dynamic"] = Json::parse(R"j({
    "-:model\\.layers\\.0\\.mlp\\.down_proj": {},
    "+:.*down_proj$": {"bits": 8, "group_size": -1, "sym": true},
    "+:layers": {"bits": 2}})j");
  const auto config = GptqConfig::Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->ClaimOf("model.layers.0.mlp.down_proj").packed);
  const LayerClaim claim = config->ClaimOf("model.layers.1.mlp.down_proj");
  EXPECT_TRUE(claim.packed);
  EXPECT_EQ(claim.bits, 8);
  EXPECT_EQ(claim.group_size, -1);
  EXPECT_TRUE(claim.symmetric);
  EXPECT_EQ(config->ClaimOf("model.layers.1.mlp.up_proj").bits, 4);
}

struct Rejection {
  std::string pointer;
  std::string value;
  std::string message;
};

TEST(GptqConfigTest, ValueThatLoadersDoNotTakeIsNamedWithItsKey) {
  const std::vector<Rejection> rejections = {
      {"/quant_method", R"("awq")", R"(quant_method is "awq")"},
      {"/bits", "5", "bits is 5; expected 2, 3, 4 or 8"},
      {"/bits", "\"4\"", "bits is \"4\""},
      {"/group_size", "0", "group_size is 0; expected -1 or a positive number"},
      {"/group_size", "32.5", "group_size is 32.5"},
      {"/sym", "1", "sym is 1; expected true or false"},
      {"/desc_act", "null", "desc_act is null"},
      {"/checkpoint_format", R"("gptq_v2")", R"(checkpoint_format is "gptq_v2")"},
      {"/pack_dtype", R"("int64")", R"(pack_dtype is "int64")"},
      {"/dynamic", "[]", "dynamic is []"},
      {"/dynamic", R"({"+:(": {}})", "dynamic rule +:(: no regular expression"},
      {"/dynamic", R"({"+:a": 3})", "dynamic rule +:a is 3"},
      {"/dynamic", R"({"+:a": {"bits": 6}})", "dynamic rule +:a"},
      {"/dynamic", R"({"+:a": {"desc_act": true}})", "sets desc_act to true"}};
  for (const Rejection& rejection : rejections) {
    SCOPED_TRACE(rejection.pointer + " = " + rejection.value);
    Json json = Base();
    json[Json::json_pointer(rejection.pointer)] = Json::parse(rejection.value);
    const auto config = GptqConfig::Parse(json);
    ASSERT_FALSE(config.ok());
    EXPECT_EQ(config.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ErrorReason(config.status()), "VERIFY_FAILED");
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(rejection.message));
  }
}

TEST(GptqConfigTest, MissingKeyIsNamed) {
  for (const std::string key : {"bits", "group_size", "sym", "desc_act"}) {
    Json json = Base();
    json.erase(key);
    const auto config = GptqConfig::Parse(json);
    ASSERT_FALSE(config.ok());
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(key + " is missing"));
  }
  EXPECT_FALSE(GptqConfig::Parse(Json()).ok());
}

}  // namespace
}  // namespace teq::verify
