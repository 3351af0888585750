#include "worker/engine/pack/gptq.h"

#include <gmock/gmock.h>

namespace teq::pack {
namespace {

using torch::Tensor;

TEST(GptqTensorsTest, StoresZeroPointsLessOneAlongTheOutputs) {
  quant::Quantized quantized;
  quantized.bits = 4;
  quantized.codes = torch::zeros({8, 8}, torch::kUInt8);
  quantized.scales = torch::ones({8, 1}, torch::kFloat16);
  quantized.zeros =
      torch::tensor({5, 1, 1, 8, 15, 7, 3, 12}, torch::kInt32).to(torch::kUInt8).unsqueeze(1);
  const auto tensors = GptqTensors("layer", quantized);
  ASSERT_EQ(tensors[1].first, "layer.qzeros");
  // Nibbles from the lowest: 4 0 0 7 14 6 2 11.
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[1].second.item<int>()), 0xb26e7004U);
}

TEST(GptqTensorsTest, HasTheShapesAndNamesThatLoadersExpect) {
  torch::manual_seed(1);
  const auto tensors =
      GptqTensors("m", quant::QuantizeToNearest(torch::randn({32, 64}), {true, 3, 32, false}));
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors[0].first, "m.qweight");
  EXPECT_EQ(tensors[0].second.sizes(), (std::vector<std::int64_t>{6, 32}));
  EXPECT_EQ(tensors[1].second.sizes(), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(tensors[2].first, "m.scales");
  EXPECT_EQ(tensors[2].second.sizes(), (std::vector<std::int64_t>{2, 32}));
  EXPECT_EQ(tensors[2].second.scalar_type(), torch::kFloat16);
  EXPECT_EQ(tensors[3].first, "m.g_idx");
  EXPECT_EQ(tensors[3].second[31].item<int>(), 0);
  EXPECT_EQ(tensors[3].second[32].item<int>(), 1);
}

TEST(GptqTensorsTest, SymmetricFourBitZeroPointsAreSevens) {
  torch::manual_seed(1);
  const auto tensors =
      GptqTensors("m", quant::QuantizeToNearest(torch::randn({8, 32}), {true, 4, 32, true}));
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[1].second.item<int>()), 0x77777777U);
}

model_info::PlannedLayer Planned(const std::string& name, const LayerGrid& grid) {
  return {{.name = name, .in = 64, .out = 64}, grid};
}

TEST(GptqConfigTest, OtherGridsAndFloatLayersBecomeDynamicRules) {
  PackableModel model;
  model.config.prefix = "a.";
  model.plan = {Planned("a.q", {true, 4, 32, false}), Planned("a.k", {true, 4, 32, false}),
                Planned("a.v", {true, 8, 64, true}), Planned("a.o", {false, 4, 32, false})};
  const nlohmann::ordered_json config = GptqConfig(model);
  EXPECT_EQ(config["quant_method"], "gptq");
  EXPECT_EQ(config["bits"], 4);
  EXPECT_EQ(config["group_size"], 32);
  EXPECT_EQ(config["sym"], false);
  EXPECT_EQ(config["desc_act"], false);
  EXPECT_EQ(config["checkpoint_format"], "gptq");
  EXPECT_EQ(config["dynamic"].dump(),
            R"({"+:^a\\.v$":{"bits":8,"group_size":64,"sym":true},"-:^a\\.o$":{}})");
}

}  // namespace
}  // namespace teq::pack
