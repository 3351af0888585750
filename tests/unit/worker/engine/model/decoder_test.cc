#include "worker/engine/model/decoder.h"

#include <gmock/gmock.h>

#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/unit/worker/engine/model/family_case.h"
#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/model/block_runner.h"

namespace teq::model {
namespace {

using torch::Tensor;

// golden.json was made by a separate PyTorch program on the stored weights.
TEST(DecoderTest, DemoModelsLogitsEqualTheRecordedOnes) {
  const std::string directory = TEQ_FIXTURES "/demo-llama";
  const auto golden = nlohmann::json::parse(std::ifstream(directory + "/golden.json"));
  const auto decoder = ReadDecoder(directory, torch::kCPU);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  const torch::NoGradGuard no_gradient;
  const Tensor ids =
      torch::tensor(golden["input_ids"].get<std::vector<std::int64_t>>(), torch::kInt64);
  const Tensor logits = Logits(*decoder, ids.unsqueeze(0)).value()[0];
  ASSERT_FALSE(golden["logits"].empty());
  for (const auto& row : golden["logits"]) {
    const Tensor expected = torch::tensor(row["values"].get<std::vector<float>>());
    const Tensor actual = logits[row["position"].get<std::int64_t>()];
    EXPECT_LT((actual - expected).abs().max().item<float>(), 1e-3) << row["position"];
  }
}

TEST(DecoderTest, ATokenNeverSeesTheOnesAfterIt) {
  const Decoder decoder = TinyDecoder(2);
  const Tensor ids = torch::randint(64, {1, 10}, torch::kInt64);
  Tensor changed = ids.clone();
  changed[0][7] = (changed[0][7] + 1) % 64;
  const Tensor difference =
      (Logits(decoder, ids).value() - Logits(decoder, changed).value()).abs().amax(-1)[0];
  EXPECT_EQ(difference.slice(0, 0, 7).max().item<float>(), 0);
  EXPECT_GT(difference[7].item<float>(), 0);
}

TEST(DecoderTest, ASlidingWindowHidesWhatLiesBeforeIt) {
  Decoder decoder = TinyDecoder(2);
  decoder.blocks.resize(1);
  decoder.config.windows = {3};
  const Tensor ids = torch::randint(64, {1, 10}, torch::kInt64);
  Tensor changed = ids.clone();
  changed[0][2] = (changed[0][2] + 1) % 64;
  const Tensor difference =
      (Logits(decoder, ids).value() - Logits(decoder, changed).value()).abs().amax(-1)[0];
  EXPECT_GT(difference[4].item<float>(), 0);
  EXPECT_EQ(difference.slice(0, 5).max().item<float>(), 0);
}

// Rotary positions make attention depend on distances alone, so a one-layer model whose context is
// shifted gives the same last logits when the attention sees the same relative tokens.
TEST(DecoderTest, PositionsEnterOnlyAsDistances) {
  Decoder decoder = TinyDecoder(2);
  decoder.blocks.resize(1);
  decoder.config.windows = {4};
  const Tensor tail = torch::randint(64, {1, 4}, torch::kInt64);
  const Tensor near = Logits(decoder, tail).value()[0][3];
  const Tensor far =
      Logits(decoder, torch::cat({torch::randint(64, {1, 20}, torch::kInt64), tail}, 1))
          .value()[0][23];
  EXPECT_TRUE(torch::allclose(near, far, 1e-4, 1e-4));
}

// A mask of 2^18 by 2^18 would be 256 GiB.
TEST(DecoderTest, OnTheHostNoMaskGrowsWithTheWindowsSquare) {
  const Decoder decoder = TinyDecoder(2);
  EXPECT_NO_THROW(BlockRunner(decoder, 1 << 18));
}

TEST(DecoderTest, Llama3ScalingStretchesOnlyLowFrequencies) {
  Decoder decoder = TinyDecoder(2);
  const Tensor ids = torch::randint(64, {1, 12}, torch::kInt64);
  const Tensor plain = Logits(decoder, ids).value();
  // Every frequency far above the threshold: nothing changes.
  decoder.config.rotary.scaling =
      model_info::RopeScaling{model_info::RopeScaling::Kind::kLlama3, 8, 1e-9, 1e-8, 8192};
  EXPECT_TRUE(torch::allclose(Logits(decoder, ids).value(), plain, 1e-5, 1e-5));
  // Every frequency far below it: the same as dividing all positions by the factor.
  decoder.config.rotary.scaling =
      model_info::RopeScaling{model_info::RopeScaling::Kind::kLlama3, 8, 1e8, 1e9, 8192};
  const Tensor stretched = Logits(decoder, ids).value();
  decoder.config.rotary.scaling =
      model_info::RopeScaling{model_info::RopeScaling::Kind::kLinear, 8};
  EXPECT_TRUE(torch::allclose(stretched, Logits(decoder, ids).value(), 1e-5, 1e-5));
  EXPECT_FALSE(torch::allclose(stretched, plain, 1e-3, 1e-3));
}

}  // namespace
}  // namespace teq::model
