#include "worker/engine/teq/fold.h"

#include <gmock/gmock.h>

#include "tests/unit/worker/engine/model/tiny_decoder.h"

namespace teq::transform {
namespace {

using model_info::NormPlace;
using torch::Tensor;

constexpr LayerGrid kGrid{true, 4, 8, false};

model::Decoder Folded(const model::Decoder& decoder, const std::vector<ScaleGroup>& groups,
                      const std::vector<Tensor>& log_scales, torch::ScalarType stored) {
  model::Decoder folded = decoder;
  for (std::size_t i = 0; i < folded.blocks.size(); ++i) {
    folded.blocks[i] = FoldBlock(
        decoder.blocks[i],
        ResolveScales(decoder.blocks[i], decoder.config.norm, groups, log_scales, stored));
  }
  return folded;
}

std::vector<Tensor> RandomScales(const std::vector<ScaleGroup>& groups) {
  std::vector<Tensor> scales;
  for (const ScaleGroup& group : groups) scales.push_back(torch::randn({group.width}) * 0.7);
  return scales;
}

double RelativeDifference(const Tensor& actual, const Tensor& expected) {
  return ((actual - expected).abs().max() / expected.abs().max()).item<double>();
}

TEST(FoldTest, LeavesTheFloatModelsFunctionUnchanged) {
  for (const bool biases : {false, true}) {
    const model::Decoder decoder = TinyDecoder(5, biases);
    const auto groups = ScaleGroups(decoder.config, UniformGrids(decoder, kGrid));
    const Tensor ids = torch::randint(64, {3, 20}, torch::kInt64);
    const Tensor expected = model::Logits(decoder, ids).value();
    // Float16 norms are rounded before their consumers are scaled, so that nothing is lost.
    for (const auto stored : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
      const Tensor actual =
          model::Logits(Folded(decoder, groups, RandomScales(groups), stored), ids).value();
      EXPECT_LT(RelativeDifference(actual, expected), 1e-4) << biases << " " << stored;
    }
  }
}

TEST(FoldTest, AScaleThatItsProducerDoesNotAbsorbWouldChangeTheFunction) {
  const model::Decoder decoder = TinyDecoder(5);
  const auto groups = ScaleGroups(decoder.config, UniformGrids(decoder, kGrid));
  const Tensor ids = torch::randint(64, {3, 20}, torch::kInt64);
  model::Decoder folded = Folded(decoder, groups, RandomScales(groups), torch::kFloat32);
  folded.blocks[0].at(NormPlace::kMlp) = decoder.blocks[0].at(NormPlace::kMlp);
  EXPECT_GT(
      RelativeDifference(model::Logits(folded, ids).value(), model::Logits(decoder, ids).value()),
      1e-2);
}

TEST(FoldTest, StoredNormsAreValuesOfThePublishedType) {
  const model::Decoder decoder = TinyDecoder(5);
  const auto groups = ScaleGroups(decoder.config, UniformGrids(decoder, kGrid));
  const BlockScales scales = ResolveScales(decoder.blocks[0], decoder.config.norm, groups,
                                           RandomScales(groups), torch::kFloat16);
  const Tensor& weight = scales.norms[static_cast<std::size_t>(NormPlace::kMlp)].weight;
  EXPECT_TRUE(torch::equal(weight, weight.to(torch::kFloat16).to(torch::kFloat32)));
}

TEST(FoldTest, AChannelWhoseNormIsZeroKeepsItsColumns) {
  model::Decoder decoder = TinyDecoder(5);
  decoder.blocks[0].at(NormPlace::kAttention).weight[3] = 0;
  const auto groups = ScaleGroups(decoder.config, UniformGrids(decoder, kGrid));
  const BlockScales scales = ResolveScales(decoder.blocks[0], decoder.config.norm, groups,
                                           RandomScales(groups), torch::kFloat16);
  EXPECT_EQ(scales.norms[static_cast<std::size_t>(NormPlace::kAttention)].weight[3].item<float>(),
            0);
  EXPECT_EQ(scales.input[kQuery][3].item<float>(), 1);
}

TEST(FoldTest, FakeQuantizedBlockIsTheFoldedBlockRounded) {
  const model::Decoder decoder = TinyDecoder(5);
  const auto grids = UniformGrids(decoder, {true, 8, -1, false});
  const auto groups = ScaleGroups(decoder.config, grids);
  Parameters parameters = PlainParameters(groups, grids, torch::kFloat32);
  parameters.log_scales = RandomScales(groups);
  const Tensor ids = torch::randint(64, {3, 20}, torch::kInt64);
  const model::Decoder rounded = FakeQuantizeDecoder(decoder, groups, parameters, grids,
                                                     torch::kFloat16, teq::v1::GRADIENT_FULL);
  // Eight bits are close to float.
  EXPECT_LT(
      RelativeDifference(model::Logits(rounded, ids).value(), model::Logits(decoder, ids).value()),
      0.05);
}

TEST(ScaleGroupsTest, HaveOneScaleForEachOutputOfTheProducer) {
  const model::Decoder decoder = TinyDecoder(5);
  const auto groups = ScaleGroups(decoder.config, UniformGrids(decoder, kGrid));
  ASSERT_EQ(groups.size(), 8U);
  EXPECT_EQ(groups[0].width, 32);  // attention norm
  EXPECT_EQ(groups[1].width, 16);  // v: 2 key-value heads of 8
  EXPECT_EQ(groups[1].repeat, 2);
  EXPECT_EQ(groups[2].width, 32);  // mlp norm
  EXPECT_EQ(groups[3].width, 48);  // up
}

// Heads 0 and 1 read key-value head 0, heads 2 and 3 head 1.
TEST(ScaleGroupsTest, HeadsThatShareAKeyValueHeadShareItsScales) {
  const ScaleGroup group{.width = 4, .head_size = 2, .repeat = 2};
  const Tensor scale = torch::tensor({1.0F, 2.0F, 3.0F, 4.0F});
  EXPECT_TRUE(torch::equal(ConsumerScale(group, scale),
                           torch::tensor({1.0F, 2.0F, 1.0F, 2.0F, 3.0F, 4.0F, 3.0F, 4.0F})));
  EXPECT_TRUE(torch::equal(
      ProducerMean(group, torch::tensor({1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F, 8.0F})),
      torch::tensor({2.0F, 3.0F, 6.0F, 7.0F})));
}

TEST(ScaleGroupsTest, AGroupWithoutAQuantizedConsumerIsLeftOut) {
  const model::Decoder decoder = TinyDecoder(5);
  auto grids = UniformGrids(decoder, kGrid);
  for (auto& block : grids) block[kDown].quantized = false;
  const auto groups = ScaleGroups(decoder.config, grids);
  EXPECT_EQ(groups.size(), 6U);
  for (const ScaleGroup& group : groups) {
    EXPECT_TRUE(group.norm || group.linear != kUp);
  }
}

}  // namespace
}  // namespace teq::transform
