#include "worker/engine/model/draw_tokens.h"

#include <gtest/gtest.h>

#include "tests/unit/worker/engine/model/tiny_decoder.h"

namespace teq::model {
namespace {

using torch::Tensor;

/// A head whose logits are the states: three tokens, chosen by log p.
Decoder IdentityHead() {
  Decoder decoder = TinyDecoder(3);
  decoder.head = torch::eye(3);
  decoder.head_bias = Tensor();
  return decoder;
}

TEST(DrawTokensTest, ATokenIsWhereTheCumulativeSumPassesThePlace) {
  const Tensor states = torch::tensor({0.5F, 0.2F, 0.3F}).log().repeat({6, 1});
  const Tensor uniform = torch::tensor({0.0F, 0.49F, 0.51F, 0.69F, 0.71F, 0.9999999F});
  EXPECT_TRUE(torch::equal(DrawTokens(IdentityHead(), states, uniform),
                           torch::tensor({0, 0, 1, 1, 2, 2}, torch::kInt64)));
}

TEST(DrawTokensTest, ATokenOfNoProbabilityIsNotDrawn) {
  const Tensor states = torch::tensor({-1e4F, 0.0F, -1e4F}).repeat({2, 1});
  EXPECT_TRUE(torch::equal(DrawTokens(IdentityHead(), states, torch::tensor({0.0F, 0.9999999F})),
                           torch::tensor({1, 1}, torch::kInt64)));
}

TEST(DrawTokensTest, EveryRowHasItsOwnDistribution) {
  const Tensor states = torch::eye(3).mul(1e4).view({3, 1, 3}).repeat({1, 2, 1});
  const Tensor drawn = DrawTokens(IdentityHead(), states, torch::full({3, 2}, 0.5F));
  EXPECT_TRUE(torch::equal(drawn, torch::tensor({{0, 0}, {1, 1}, {2, 2}}, torch::kInt64)));
  EXPECT_EQ(DrawTokens(IdentityHead(), torch::empty({0, 3}), torch::empty({0})).size(0), 0);
}

}  // namespace
}  // namespace teq::model
