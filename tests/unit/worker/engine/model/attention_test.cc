#include "worker/engine/model/attention.h"

#include <gmock/gmock.h>

#include <cmath>
#include <string>
#include <vector>

#include "torch/autograd.h"
#include "torch/utils.h"

namespace teq::model {
namespace {

using torch::Tensor;

struct Case {
  const char* name;
  std::int64_t batch = 2;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 4;
  std::int64_t length = 100;
  std::int64_t size = 48;
  std::int64_t window = 0;
  std::int64_t rotary = 0;  // dimensions
  bool interleaved = false;
  bool alibi = false;
  double magnitude = 1;  // of queries: scores from even to one key's alone
};

/// The kernel in float32 against LibTorch's operators and autograd in float64.
class AttentionTest : public testing::TestWithParam<Case> {
 protected:
  AttentionTest() {
    torch::manual_seed(7);
    rotary_.dimensions = GetParam().rotary;
    rotary_.interleaved = GetParam().interleaved;
    if (GetParam().rotary > 0) table_ = MakeRotaryTable(rotary_, GetParam().length, torch::kCPU);
    mask_ = AttentionMask(GetParam().window, GetParam().length, torch::kCPU);
    if (GetParam().alibi) {
      model_info::ModelConfig config;
      config.heads = GetParam().heads;
      config.kv_heads = GetParam().kv_heads;
      alibi_ = AlibiBias(config, GetParam().length, torch::kCPU);
    }
    // As the projections give them: [batch, sequence, heads, head_size].
    const auto random = [](std::int64_t heads, double magnitude) {
      return torch::randn({GetParam().batch, GetParam().length, heads, GetParam().size}) *
             magnitude;
    };
    inputs_ = {random(GetParam().heads, GetParam().magnitude), random(GetParam().kv_heads, 1),
               random(GetParam().kv_heads, 1)};
    for (const Tensor& input : inputs_) {
      exact_inputs_.push_back(input.to(torch::kFloat64).requires_grad_(true));
    }
    for (Tensor& input : inputs_) input.requires_grad_(true);
  }

  AttentionSetting Setting() const {
    return {.scale = 1 / std::sqrt(static_cast<double>(GetParam().size)),
            .window = GetParam().window,
            .rotary = GetParam().rotary > 0 ? &rotary_ : nullptr,
            .table = &table_,
            .mask = mask_,
            .alibi = alibi_};
  }

  static Heads ByHead(const std::vector<Tensor>& inputs) {
    return {inputs[0].transpose(1, 2), inputs[1].transpose(1, 2), inputs[2].transpose(1, 2)};
  }

  /// Scores are rounded in proportion to their size, and weights follow them.
  static void ExpectClose(const Tensor& actual, const Tensor& exact) {
    ASSERT_EQ(actual.sizes(), exact.sizes());
    const double error = (actual.to(torch::kFloat64) - exact).abs().max().item<double>();
    EXPECT_LT(error, 1e-5 * std::max(1.0, exact.abs().max().item<double>()) *
                         std::max(1.0, GetParam().magnitude / 10));
  }

  model_info::Rotary rotary_;
  RotaryTable table_;
  Tensor mask_;
  Tensor alibi_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> exact_inputs_;
};

TEST_P(AttentionTest, OnePassGivesWhatOperatorsAndAutogradGive) {
  const Tensor output = Attend(ByHead(inputs_), Setting());
  const Tensor exact = AttendByOperators(ByHead(exact_inputs_), Setting());
  ExpectClose(output, exact);
  const Tensor upstream = torch::randn(output.sizes());
  const auto gradients = torch::autograd::grad({output}, inputs_, {upstream});
  const auto exact_gradients =
      torch::autograd::grad({exact}, exact_inputs_, {upstream.to(torch::kFloat64)});
  for (std::size_t i = 0; i < inputs_.size(); ++i) ExpectClose(gradients[i], exact_gradients[i]);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    testing::Values(Case{.name = "OneToken", .length = 1}, Case{.name = "OneBlock", .length = 48},
                    Case{.name = "RaggedBlocks", .length = 131, .rotary = 48},
                    Case{.name = "ManyBlocks", .batch = 1, .length = 400, .rotary = 48},
                    Case{.name = "OddHeadSize", .length = 50, .size = 20, .rotary = 20},
                    Case{.name = "SmallHeads", .length = 7, .size = 8, .rotary = 8},
                    Case{
                        .name = "WideHeads", .heads = 2, .kv_heads = 2, .size = 128, .rotary = 128},
                    Case{.name = "SharedKeys", .heads = 6, .kv_heads = 2, .rotary = 48},
                    Case{.name = "OneKeyHead", .heads = 5, .kv_heads = 1, .size = 16},
                    Case{.name = "Window", .length = 150, .window = 37, .rotary = 48},
                    Case{.name = "WindowOfOne", .length = 60, .window = 1},
                    Case{.name = "WideWindow", .length = 60, .window = 500},
                    Case{.name = "PartlyTurned", .size = 32, .rotary = 12},
                    Case{.name = "NeighboursTurned", .size = 32, .rotary = 16, .interleaved = true},
                    Case{.name = "Alibi", .heads = 6, .kv_heads = 2, .alibi = true},
                    Case{.name = "NearlyEven", .rotary = 48, .magnitude = 1e-3},
                    Case{.name = "OneKeyAlone", .rotary = 48, .magnitude = 100}),
    [](const auto& instance) { return std::string(instance.param.name); });

// A slice of a fused projection has rows, but they do not follow each other.
TEST(AttentionTest, HeadsMayBeSlicesOfAnotherTensor) {
  torch::manual_seed(8);
  const Tensor fused = torch::randn({2, 30, 4, 3, 16});
  const auto part = [&](std::int64_t i) { return fused.select(3, i).transpose(1, 2); };
  const AttentionSetting setting;
  const Tensor expected =
      Attend({part(0).contiguous(), part(1).contiguous(), part(2).contiguous()}, setting);
  EXPECT_TRUE(torch::equal(Attend({part(0), part(1), part(2)}, setting), expected));
}

}  // namespace
}  // namespace teq::model
