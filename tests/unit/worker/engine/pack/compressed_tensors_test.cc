#include "worker/engine/pack/compressed_tensors.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <regex>
#include <set>

#include "tests/unit/worker/engine/pack/tiny_packable.h"
#include "worker/engine/pack/bit_packing.h"
#include "worker/engine/pack/gptq.h"

namespace teq::pack {
namespace {

using torch::Tensor;

Tensor Bytes(const std::vector<int>& values) {
  return torch::tensor(values, torch::kInt32).to(torch::kUInt8);
}

// Signed codes -8 -7 -1 0 1 2 6 7, each plus 8; and the zero points 5 0 1 8 15 7 3 12.
TEST(CompressedTensorsTest, StoresCodesAlongInputsAndZeroPointsAlongOutputs) {
  quant::Quantized quantized;
  quantized.bits = 4;
  quantized.codes = Bytes({0, 1, 7, 8, 9, 10, 14, 15}).unsqueeze(0).repeat({8, 1});
  quantized.scales = torch::ones({8, 1}, torch::kFloat16);
  quantized.zeros = Bytes({5, 0, 1, 8, 15, 7, 3, 12}).unsqueeze(1);
  const auto tensors = CompressedTensors("m", quantized, /*symmetric=*/false);
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors[0].first, "m.weight_packed");
  EXPECT_EQ(tensors[0].second.sizes(), (std::vector<std::int64_t>{8, 1}));
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[0].second[7][0].item<int>()), 0xfea98710U);
  EXPECT_EQ(tensors[1].first, "m.weight_scale");
  EXPECT_EQ(tensors[2].first, "m.weight_shape");
  EXPECT_TRUE(torch::equal(tensors[2].second, torch::tensor({8, 8}, torch::kInt64)));
  EXPECT_EQ(tensors[3].first, "m.weight_zero_point");
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[3].second.item<int>()), 0xc37f8105U);
}

TEST(CompressedTensorsTest, SymmetricLayersHaveNoZeroPoints) {
  const auto tensors = CompressedTensors(
      "m", quant::QuantizeToNearest(torch::ones({8, 32}), {true, 8, -1, true}), true);
  EXPECT_EQ(tensors.size(), 3U);
}

// Both layouts are dense, one along rows and one along columns.
TEST(CompressedTensorsTest, IsGptqsLayoutTransposed) {
  for (const int bits : {2, 3, 4, 8}) {
    torch::manual_seed(bits);
    const quant::Quantized quantized =
        quant::QuantizeToNearest(torch::randn({64, 96}), {true, bits, 32, false});
    const auto ours = CompressedTensors("m", quantized, false);
    const auto gptq = GptqTensors("m", quantized);
    EXPECT_TRUE(torch::equal(ours[0].second, gptq[0].second.t())) << bits;
    // Version 2 stores the zero points as they are.
    const Tensor version_2 = PackRows(quantized.zeros, bits).t();
    EXPECT_TRUE(torch::equal(ours[3].second, version_2.t())) << bits;
  }
}

TEST(CompressedTensorsConfigTest, OneGridIsTheSchemeOfAllLinearLayers) {
  PackableModel model = TinyPackable({true, 3, -1, false});
  Regrid(model, "model.layers.0.mlp.down_proj", {.quantized = false});
  const nlohmann::ordered_json config = CompressedTensorsConfig(model);
  EXPECT_EQ(config["quant_method"], "compressed-tensors");
  EXPECT_EQ(config["format"], "pack-quantized");
  EXPECT_EQ(config["ignore"].dump(), R"(["lm_head","model.layers.0.mlp.down_proj"])");
  ASSERT_EQ(config["config_groups"].size(), 1U);
  const nlohmann::ordered_json& group = config["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"].dump(), R"(["Linear"])");
  EXPECT_EQ(group["weights"]["num_bits"], 3);
  EXPECT_EQ(group["weights"]["symmetric"], false);
  EXPECT_EQ(group["weights"]["strategy"], "channel");
  EXPECT_TRUE(group["weights"]["group_size"].is_null());
}

TEST(CompressedTensorsConfigTest, SeveralGridsNameTheirLayersSoThatNoneFitsTwo) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  Regrid(model, "model.layers.0.mlp.down_proj", {true, 8, 128, true});
  const nlohmann::ordered_json groups = CompressedTensorsConfig(model)["config_groups"];
  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups["group_0"]["targets"].size(), 6U);
  EXPECT_EQ(groups["group_0"]["targets"][0], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(groups["group_1"]["targets"].dump(), R"(["model.layers.0.mlp.down_proj"])");
  EXPECT_EQ(groups["group_1"]["weights"]["num_bits"], 8);
  EXPECT_EQ(groups["group_1"]["weights"]["group_size"], 128);
}

TEST(CompressedTensorsConfigTest, NamesWithoutTheirPrefixMatchTheLoadedModelsToo) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  model.config.prefix.clear();
  Regrid(model, "model.layers.0.mlp.down_proj", {.quantized = false});
  model.plan.back().layer.name = "layers.0.mlp.down_proj";
  EXPECT_EQ(CompressedTensorsConfig(model)["ignore"].dump(),
            R"(["lm_head","re:^(?:.*\\.)?layers\\.0\\.mlp\\.down_proj$"])");
}

TEST(CompressedTensorsConfigTest, OfALargerModelTheDecoderAloneIsNamed) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  Regrid(model, "model.layers.0.mlp.down_proj", {true, 8, 128, true});
  MakePart(model);
  const nlohmann::ordered_json config = CompressedTensorsConfig(model);
  EXPECT_EQ(config["ignore"].dump(),
            R"(["re:^(?:.*\\.)?lm_head$","re:^(?:.*\\.)?vision_tower(?:\\..*)?$"])");
  EXPECT_EQ(config["config_groups"]["group_1"]["targets"].dump(),
            R"(["re:^(?:.*\\.)?language_model\\.(?:model\\.)?layers\\.0\\.mlp\\.down_proj$"])");
}

// vLLM looks for the experts' scheme under names that Mixtral's files do not have.
TEST(CompressedTensorsConfigTest, TheFirstExpertIsNamedAsServersAskForIt) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  Regrid(model, "model.layers.0.self_attn.o_proj", {true, 8, 128, true});
  for (model_info::PlannedLayer& planned : model.plan) {
    const std::string name = planned.layer.name;
    if (name.ends_with("gate_proj")) planned.layer.name = "model.layers.0.moe.experts.0.w1";
    if (name.ends_with("up_proj")) planned.layer.name = "model.layers.0.moe.experts.0.w3";
    if (name.ends_with("down_proj")) planned.layer.name = "model.layers.0.moe.experts.0.down_proj";
    if (planned.layer.name != name) planned.layer.expert = 0;
  }
  const nlohmann::ordered_json groups = CompressedTensorsConfig(model)["config_groups"];
  EXPECT_THAT(
      groups["group_0"]["targets"].get<std::vector<std::string>>(),
      testing::IsSupersetOf({R"(re:^model\.layers\.0\.moe\.experts\.0\.(?:w1|w3|down_proj)$)",
                             "model.layers.0.moe.experts.0.gate_proj",
                             "model.layers.0.moe.experts.0.up_proj"}));
  EXPECT_EQ(groups["group_0"]["targets"].size(), 6U);
  for (model_info::PlannedLayer& planned : model.plan) {
    if (planned.layer.expert == 0) planned.grid.quantized = false;
  }
  EXPECT_THAT(
      CompressedTensorsConfig(model)["ignore"].get<std::vector<std::string>>(),
      testing::IsSupersetOf({R"(re:^model\.layers\.0\.moe\.experts\.0\.(?:w1|w3|down_proj)$)",
                             "model.layers.0.moe.experts.0.gate_proj",
                             "model.layers.0.moe.experts.0.up_proj"}));
}

/// Targets or ignored modules, as loaders compare them with a module's name.
class Named {
 public:
  explicit Named(const nlohmann::ordered_json& targets) {
    for (const std::string& target : targets.get<std::vector<std::string>>()) {
      if (target.starts_with("re:")) {
        expressions_.emplace_back(target.substr(3));
      } else {
        names_.insert(target);
      }
    }
  }

  [[nodiscard]] bool Has(const std::string& module) const {
    return names_.contains(module) ||
           std::any_of(expressions_.begin(), expressions_.end(), [&](const std::regex& expression) {
             return std::regex_search(module, expression, std::regex_constants::match_continuous);
           });
  }

 private:
  std::set<std::string> names_;
  std::vector<std::regex> expressions_;
};

// Loaders compare each module with all targets.
TEST(CompressedTensorsConfigTest, ExpertsAreNamedByExpressionsSoThatEachFitsItsGroupAlone) {
  PackableModel model = TinyMixture({true, 4, 32, false});
  RegridWhere(model, R"(model\.layers\.1\.mlp\.experts\..*)", {true, 8, 32, false});
  RegridWhere(model, R"(model\.layers\.2\.mlp\.experts\.1\.down_proj)", {true, 8, 32, false});
  RegridWhere(model, R"(model\.layers\.3\.mlp\.experts\.(1|11)\..*)", {.quantized = false});
  const nlohmann::ordered_json config = CompressedTensorsConfig(model);
  const nlohmann::ordered_json& groups = config["config_groups"];
  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups["group_1"]["targets"].size(), 2U);
  // The 84 layers beside the experts by name; the experts of ten blocks, and of block 2 in two
  // parts.
  EXPECT_EQ(groups["group_0"]["targets"].size(), 84U + 10U + 2U);
  EXPECT_EQ(config["ignore"].size(), 1U + 24U + 1U);
  const Named ignored(config["ignore"]);
  const Named four_bits(groups["group_0"]["targets"]);
  const Named eight_bits(groups["group_1"]["targets"]);
  for (const model_info::PlannedLayer& planned : model.plan) {
    const std::string& name = planned.layer.name;
    const int bits = planned.grid.quantized ? planned.grid.bits : 0;
    EXPECT_EQ(ignored.Has(name), bits == 0) << name;
    EXPECT_EQ(four_bits.Has(name), bits == 4) << name;
    EXPECT_EQ(eight_bits.Has(name), bits == 8) << name;
  }
}

}  // namespace
}  // namespace teq::pack
