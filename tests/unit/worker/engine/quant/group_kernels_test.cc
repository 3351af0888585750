// What a CUDA block does to a group, done by the host's threads: nothing here needs a GPU. The
// file is compiled without contraction, as the kernels are.
#include "worker/engine/quant/group_kernels.h"

#include <gmock/gmock.h>

#include <barrier>
#include <thread>

#include "c10/util/Half.h"
#include "worker/engine/quant/cuda_kernels.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/quant/rounding.h"

namespace teq::quant {
namespace {

using torch::Tensor;

/// Threads in the place of a block's.
class Block {
 public:
  explicit Block(int count) : barrier_(count), values_(static_cast<std::size_t>(count)) {}

  class Lanes {
   public:
    Lanes(Block& block, int index) : block_(block), index_(index) {}
    [[nodiscard]] int index() const { return index_; }
    [[nodiscard]] int count() const { return static_cast<int>(block_.values_.size()); }

    template <typename T, typename Combine>
    T All(T value, Combine combine) {
      block_.values_[static_cast<std::size_t>(index_)] = static_cast<double>(value);
      block_.barrier_.arrive_and_wait();
      T result = static_cast<T>(block_.values_[0]);
      for (std::size_t i = 1; i < block_.values_.size(); ++i) {
        result = combine(result, static_cast<T>(block_.values_[i]));
      }
      block_.barrier_.arrive_and_wait();
      return result;
    }

   private:
    Block& block_;
    int index_;
  };

  /// Runs `kernel` in all threads.
  template <typename Kernel>
  void Run(const Kernel& kernel) {
    std::vector<std::jthread> threads;
    for (int i = 0; i < static_cast<int>(values_.size()); ++i) {
      threads.emplace_back([this, &kernel, i] {
        Lanes lanes(*this, i);
        kernel(lanes);
      });
    }
  }

 private:
  std::barrier<> barrier_;
  std::vector<double> values_;
};

struct Case {
  int bits;
  int group_size;
  bool symmetric;
  bool adjusted;  // with clip factors and offsets
  int lanes;
};

class GroupKernelsTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr std::int64_t kRows = 35;
  static constexpr std::int64_t kColumns = 96;

  void SetUp() override {
    torch::manual_seed(17);
    grid_ = {true, GetParam().bits, GetParam().group_size, GetParam().symmetric};
    operand_.weight = torch::randn({kRows, kColumns});
    operand_.weight.slice(0, 0, 5).abs_();      // groups whose zero point is clamped
    operand_.weight.slice(0, 5, 7).zero_();     // and of zeros
    operand_.weight.slice(0, 7, 9).mul_(1e-8);  // and with a scale below float16's normal numbers
    operand_.weight.select(1, 3).copy_(operand_.weight.select(1, 4));  // extremes that come twice
    operand_.input_scale = (torch::randn({kColumns}) * 0.3).exp();
    operand_.input_scale.slice(0, 3, 5).fill_(4);
    operand_.output_scale = (torch::randn({kRows}) * 0.3).exp();
    upstream_ = torch::randn({kRows, kColumns});
    groups_ = kColumns / GroupSize(grid_, kColumns);
    if (!GetParam().adjusted) return;
    operand_.adjustment = {{Factors(), Factors()}, torch::rand({kRows, kColumns}) - 0.5};
  }

  Tensor Factors() const { return torch::rand({kRows, groups_}) * 0.5 + 0.6; }

  static float* Data(const Tensor& tensor) {
    return tensor.defined() ? tensor.data_ptr<float>() : nullptr;
  }

  Problem ProblemOf() const {
    return {.weight = Data(operand_.weight),
            .input_scale = Data(operand_.input_scale),
            .output_scale = Data(operand_.output_scale),
            .low_factor = Data(operand_.adjustment.clip.low),
            .high_factor = Data(operand_.adjustment.clip.high),
            .offset = Data(operand_.adjustment.offset),
            .rows = kRows,
            .columns = kColumns,
            .group_size = GroupSize(grid_, kColumns),
            .bits = grid_.bits,
            .symmetric = grid_.symmetric};
  }

  /// All groups, as the kernels' launches go through them.
  template <typename Kernel>
  void ForEachGroup(const Kernel& kernel) const {
    Block block(GetParam().lanes);
    block.Run([&](Block::Lanes& lanes) {
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (std::int64_t group = 0; group < groups_; ++group) {
          kernel(GroupPlace{row, group * GroupSize(grid_, kColumns)}, lanes);
        }
      }
    });
  }

  LayerGrid grid_;
  RoundingOperand operand_;
  Tensor upstream_;
  std::int64_t groups_ = 0;
};

TEST_P(GroupKernelsTest, RoundingEqualsQuantizeThenDequantizeBitByBit) {
  const Problem problem = ProblemOf();
  const Tensor output = torch::full({kRows, kColumns}, 77.0);
  ForEachGroup([&](const GroupPlace& place, Block::Lanes& lanes) {
    FakeQuantizeGroup(problem, place, lanes, Data(output));
  });
  EXPECT_TRUE(torch::equal(
      output, Dequantize(QuantizeToNearest(operand_.ScaledWeight(), grid_, operand_.adjustment))));
  EXPECT_TRUE(torch::equal(output, RoundOnCpu(operand_, grid_)));
}

TEST_P(GroupKernelsTest, GradientsAreTheHosts) {
  const Problem problem = ProblemOf();
  for (const bool full : {true, false}) {
    const RoundingGradients host = GradientOnCpu(operand_, upstream_, grid_, full);
    const bool adjusted = GetParam().adjusted;
    const auto zeros = [&](std::int64_t columns) {
      return adjusted ? torch::zeros({kRows, columns}) : Tensor();
    };
    const Tensor low = zeros(groups_);
    const Tensor high = zeros(groups_);
    const Tensor offset = zeros(kColumns);
    const Tensor rows = torch::full({kRows, groups_}, 77.0);
    const std::int64_t blocks = (kRows + cuda::kRowsPerBlock - 1) / cuda::kRowsPerBlock;
    const Tensor columns = torch::zeros({blocks, kColumns});
    ForEachGroup([&](const GroupPlace& place, Block::Lanes& lanes) {
      const GroupGradients gradients{Data(columns) + place.row / cuda::kRowsPerBlock * kColumns,
                                     Data(low), Data(high), Data(offset)};
      const float sum =
          FakeQuantizeGradientGroup(problem, place, lanes, Data(upstream_), full, gradients);
      if (lanes.index() == 0) Data(rows)[GroupNumber(problem, place)] = sum;
    });
    // Sums are taken in another order.
    EXPECT_TRUE(torch::allclose(columns.sum(0), host.columns, 1e-4, 1e-4));
    EXPECT_TRUE(torch::allclose(rows.sum(1), host.rows, 1e-4, 1e-4));
    if (!adjusted) continue;
    EXPECT_TRUE(torch::allclose(low, host.adjustment.clip.low, 1e-4, 1e-4));
    EXPECT_TRUE(torch::allclose(high, host.adjustment.clip.high, 1e-4, 1e-4));
    EXPECT_TRUE(torch::equal(offset, host.adjustment.offset));
  }
}

// Lanes that divide a group, that do not, and more of them than columns.
INSTANTIATE_TEST_SUITE_P(Grids, GroupKernelsTest,
                         testing::Values(Case{2, 32, false, false, 1}, Case{3, 32, false, true, 4},
                                         Case{4, 16, false, true, 3}, Case{8, 48, false, true, 4},
                                         Case{4, -1, false, true, 5}, Case{4, 4, false, true, 8},
                                         Case{2, 16, true, false, 4}, Case{4, 32, true, true, 4}));

TEST(RoundToHalfTest, EqualsTheConversionToFloat16) {
  // Every float16 that is not negative, what lies in the middle of two, and what is next to that.
  for (std::uint16_t bits = 0; bits < 0x7C00; ++bits) {
    const auto value = static_cast<float>(c10::Half(bits, c10::Half::from_bits()));
    const auto next =
        static_cast<float>(c10::Half(static_cast<std::uint16_t>(bits + 1), c10::Half::from_bits()));
    const float middle = bits + 1 < 0x7C00 ? value + (next - value) / 2 : 65520.0F;
    for (const float each : {value, middle, std::nextafter(middle, 0.0F),
                             std::nextafter(middle, std::numeric_limits<float>::infinity())}) {
      const auto expected = std::max(static_cast<float>(c10::Half(each)), kSmallestScale);
      ASSERT_EQ(RoundToHalf(each), expected) << each;
    }
  }
  EXPECT_EQ(RoundToHalf(1e30F), std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace teq::quant
