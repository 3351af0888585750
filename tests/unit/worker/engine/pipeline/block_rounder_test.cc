#include "worker/engine/pipeline/block_rounder.h"

#include <gmock/gmock.h>

#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::pipeline {
namespace {

using torch::Tensor;

class BlockRounderTest : public testing::Test {
 protected:
  BlockRounderTest()
      : decoder_(TinyDecoder(4)), grids_(UniformGrids(decoder_, {true, 3, 16, false})) {
    windows_ = RandomWindows(32, 32);
    adjustments_.assign(decoder_.blocks.size(), transform::BlockAdjustments(7));
  }

  static teq::v1::Rounding Gptq() {
    teq::v1::Rounding rounding;
    rounding.mutable_gptq()->set_damping(0.01);
    rounding.mutable_gptq()->set_order_by_activation(true);
    return rounding;
  }

  /// The decoder with all its blocks rounded.
  model::Decoder Round(const teq::v1::Rounding& rounding) {
    BlockRounder rounder = BlockRounder::Make(rounding, decoder_, windows_, 8, scratch_).value();
    model::Decoder rounded = decoder_;
    for (std::size_t i = 0; i < decoder_.blocks.size(); ++i) {
      codes_ = rounder.Round(decoder_.blocks[i], grids_[i], adjustments_[i]);
      for (std::size_t layer = 0; layer < codes_.size(); ++layer) {
        if (!codes_[layer].codes.defined()) continue;
        rounded.blocks[i].linears[layer].weight = quant::Dequantize(codes_[layer]);
      }
    }
    notes_ = rounder.notes();
    return rounded;
  }

  double HiddenError(const model::Decoder& rounded) const {
    const Tensor ids = model::WindowTensor(windows_);
    return (model::HiddenStates(rounded, ids).value() - model::HiddenStates(decoder_, ids).value())
        .square()
        .mean()
        .item<double>();
  }

  model::Decoder decoder_;
  std::vector<transform::BlockGrids> grids_;
  text::Windows windows_;
  model::Scratch scratch_{testing::TempDir(), 0};
  std::vector<transform::BlockAdjustments> adjustments_;
  BlockCodes codes_;
  std::vector<std::string> notes_;
};

TEST_F(BlockRounderTest, NearestFollowsClippingAndOffsets) {
  quant::Adjustment& adjustment = adjustments_[1][0];
  adjustment.clip = {torch::full({32, 2}, 0.8), torch::full({32, 2}, 0.9)};
  adjustment.offset = torch::full({32, 32}, 0.3);
  static_cast<void>(Round({}));
  const Tensor& weight = decoder_.blocks[1].linears[0].weight;
  const quant::Quantized expected = quant::QuantizeToNearest(weight, grids_[1][0], adjustment);
  EXPECT_TRUE(torch::equal(codes_[0].codes, expected.codes));
  EXPECT_FALSE(torch::equal(codes_[0].codes, quant::QuantizeToNearest(weight, grids_[1][0]).codes));
}

TEST_F(BlockRounderTest, GptqBringsTheModelCloserToTheFloatOne) {
  const double nearest = HiddenError(Round({}));
  EXPECT_LT(HiddenError(Round(Gptq())), 0.8 * nearest);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(BlockRounderTest, FloatLayersHaveNoCodes) {
  for (transform::BlockGrids& block : grids_) {
    block[kKey].quantized = false;
  }
  static_cast<void>(Round(Gptq()));
  EXPECT_FALSE(codes_[kKey].codes.defined());
  EXPECT_TRUE(codes_[kQuery].codes.defined());
}

TEST_F(BlockRounderTest, InputsThatAreNeverActiveAreNoted) {
  for (model::Block& block : decoder_.blocks) block.at(model_info::NormPlace::kMlp).weight[3] = 0;
  static_cast<void>(Round(Gptq()));
  EXPECT_THAT(notes_, testing::Contains(testing::HasSubstr("1 of 32 inputs are never active")));
}

}  // namespace
}  // namespace teq::pipeline
