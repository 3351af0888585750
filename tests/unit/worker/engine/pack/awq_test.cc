#include "worker/engine/pack/awq.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "tests/unit/worker/engine/pack/tiny_packable.h"

namespace teq::pack {
namespace {

using torch::Tensor;

Tensor Bytes(const std::vector<int>& values) {
  return torch::tensor(values, torch::kInt32).to(torch::kUInt8).unsqueeze(1);
}

// FORMATS' worked words: nibbles from the lowest are outputs 0 2 4 6 1 3 5 7.
TEST(AwqTensorsTest, InterleavesOutputsAndKeepsZeroPoints) {
  quant::Quantized quantized;
  quantized.bits = 4;
  quantized.codes = Bytes({3, 5, 2, 6, 4, 7, 1, 0});
  quantized.scales = torch::ones({8, 1}, torch::kFloat16);
  quantized.zeros = Bytes({5, 0, 1, 8, 15, 7, 3, 12});
  const auto tensors = AwqTensors("m", quantized);
  ASSERT_EQ(tensors.size(), 3U);
  EXPECT_EQ(tensors[0].first, "m.qweight");
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[0].second.item<int>()), 0x07651423U);
  EXPECT_EQ(tensors[1].first, "m.qzeros");
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[1].second.item<int>()), 0xc7803f15U);
}

TEST(AwqTensorsTest, HasTheShapesAndNamesThatLoadersExpect) {
  const auto tensors =
      AwqTensors("m", quant::QuantizeToNearest(torch::ones({16, 64}), {true, 4, 32, false}));
  EXPECT_EQ(tensors[0].second.sizes(), (std::vector<std::int64_t>{64, 2}));
  EXPECT_EQ(tensors[1].second.sizes(), (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(tensors[2].first, "m.scales");
  EXPECT_EQ(tensors[2].second.sizes(), (std::vector<std::int64_t>{2, 16}));
  EXPECT_EQ(tensors[2].second.scalar_type(), torch::kFloat16);
}

TEST(AwqTensorsTest, SymmetricZeroPointsAreEights) {
  const auto tensors =
      AwqTensors("m", quant::QuantizeToNearest(torch::ones({8, 32}), {true, 4, 32, true}));
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[1].second.item<int>()), 0x88888888U);
}

TEST(AwqConfigTest, NamesTheHeadAndEveryFloatLayer) {
  PackableModel model = TinyPackable({true, 4, 32, true});
  Regrid(model, "model.layers.0.mlp.down_proj", {.quantized = false});
  EXPECT_EQ(AwqConfig(model).dump(),
            R"({"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm",)"
            R"("modules_to_not_convert":["lm_head","model.layers.0.mlp.down_proj"]})");
}

// Loaders compare each module with all names; servers ask for all experts of a block by one.
TEST(AwqConfigTest, ExpertsOfABlockAreNamedAsOneWhereNoneIsRounded) {
  PackableModel model = TinyMixture({true, 4, 32, false});
  RegridWhere(model, R"(model\.layers\.1\.mlp\.experts\..*)", {.quantized = false});
  RegridWhere(model, R"(model\.layers\.2\.mlp\.experts\.11\..*)", {.quantized = false});
  const auto names = AwqConfig(model)["modules_to_not_convert"].get<std::vector<std::string>>();
  // The head, two gates of each block, a block's experts, an expert's three layers.
  EXPECT_EQ(names.size(), 1U + 24U + 1U + 3U);
  EXPECT_THAT(names, testing::Contains("model.layers.1.mlp.experts"));
  for (const model_info::PlannedLayer& planned : model.plan) {
    const bool is_float = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return planned.layer.name.find(name) != std::string::npos;
    });
    EXPECT_EQ(is_float, !planned.grid.quantized) << planned.layer.name;
  }
  // Loaders that look at a name's ends only would not find these after a prefix.
  for (model_info::PlannedLayer& planned : model.plan) planned.layer.name.erase(0, 6);
  model.config.prefix.clear();
  EXPECT_THAT(AwqConfig(model)["modules_to_not_convert"].get<std::vector<std::string>>(),
              testing::IsSupersetOf({"layers.1.mlp.experts", "layers.1.mlp.experts.11.down_proj"}));
}

TEST(AwqConfigTest, OfALargerModelItNamesWhatAllLoadersCallAlike) {
  PackableModel model = TinyPackable({true, 4, 32, true});
  Regrid(model, "model.layers.0.mlp.down_proj", {.quantized = false});
  MakePart(model);
  EXPECT_EQ(AwqConfig(model)["modules_to_not_convert"].dump(),
            R"(["lm_head","layers.0.mlp.down_proj","vision_tower","model.vision_tower"])");
}

}  // namespace
}  // namespace teq::pack
