#include <gmock/gmock.h>

#include <fstream>
#include <limits>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "worker/engine/quant/gptq.h"

namespace teq::quant {
namespace {

using torch::Tensor;

/// trace(E H E^T), E being what rounding took from the weights.
double OutputError(const Tensor& weight, const Quantized& quantized, const Tensor& hessian) {
  const Tensor error = (weight - Dequantize(quantized)).to(torch::kFloat64);
  return (error.mm(hessian.to(torch::kFloat64)) * error).sum().item<double>();
}

bool Equal(const Quantized& a, const Quantized& b) {
  return torch::equal(a.codes, b.codes) && torch::equal(a.scales, b.scales) &&
         torch::equal(a.zeros, b.zeros);
}

/// Inputs with a few common causes and channels of different strength.
Tensor CorrelatedHessian(std::int64_t samples, std::int64_t in) {
  const Tensor causes = torch::randn({samples, 8}).mm(torch::randn({8, in})) / 2;
  const Tensor inputs = (causes + torch::randn({samples, in}) / 2) * torch::randn({in}).exp();
  return inputs.t().mm(inputs);
}

std::string Describe(const LayerGrid& grid, const GptqSettings& settings) {
  return fmt::format("{} bits, group {}, {}, {} update, {}", grid.bits, grid.group_size,
                     grid.symmetric ? "symmetric" : "asymmetric",
                     settings.before_update ? "before" : "after",
                     settings.order_by_activation ? "by activation" : "from the left");
}

std::vector<LayerGrid> Grids() {
  std::vector<LayerGrid> grids;
  for (const int bits : {2, 3, 4, 8}) {
    for (const int group_size : {8, 32, 96, -1}) {
      for (const bool symmetric : {false, true})
        grids.push_back({true, bits, group_size, symmetric});
    }
  }
  return grids;
}

constexpr GptqSettings kVariants[] = {
    {.before_update = false, .order_by_activation = false},
    {.before_update = false, .order_by_activation = true},
    {.before_update = true, .order_by_activation = false},
    {.before_update = true, .order_by_activation = true},
};

Tensor Matrix(const nlohmann::json& rows) {
  std::vector<double> values;
  for (const auto& row : rows) {
    for (const auto& value : row) values.push_back(value.get<double>());
  }
  return torch::tensor(values, torch::kFloat64).view({static_cast<std::int64_t>(rows.size()), -1});
}

/// A run of tests/golden/gptq_reference.py, float64 in plain Python, and the same problem's run
/// here.
struct Recorded {
  Tensor codes, scales, zeros;
  Tensor order;                        // columns as they were visited
  std::vector<std::int64_t> compared;  // by row, visited columns before one within 1e-6 of a tie
  double error = 0;

  Tensor weight, hessian;
  GptqResult result;
  double error_here = 0;
};

template <typename Check>
void ForEachRecordedRun(torch::ScalarType type, const Check& check) {
  const auto fixture = nlohmann::json::parse(std::ifstream(TEQ_FIXTURES "/gptq/reference.json"));
  int runs = 0;
  for (const auto& problem : fixture.at("problems")) {
    const Tensor weight = Matrix(problem.at("weight")) / (1 << 20);
    const Tensor inputs = Matrix(problem.at("inputs")) / 8;
    const Tensor hessian = inputs.t().mm(inputs);
    for (const auto& run : problem.at("runs")) {
      const LayerGrid grid{true, run.at("bits"), run.at("group_size"), run.at("symmetric")};
      const GptqSettings settings{run.at("damping"), run.at("before_update"),
                                  run.at("order_by_activation")};
      ClipFactors clip;
      if (run.contains("clip")) {
        clip = {(Matrix(run["clip"]["low"]) / 64).to(type),
                (Matrix(run["clip"]["high"]) / 64).to(type)};
      }
      SCOPED_TRACE(problem.at("name").get<std::string>() + ", " + Describe(grid, settings));
      Recorded recorded{Matrix(run.at("codes")).to(torch::kUInt8),
                        Matrix(run.at("scales")).to(torch::kFloat16),
                        Matrix(run.at("zeros")).to(torch::kUInt8),
                        torch::tensor(run.at("order").get<std::vector<std::int64_t>>()),
                        run.at("compared"),
                        run.at("error"),
                        weight,
                        hessian,
                        RoundGptq(weight.to(type), hessian.to(type), grid, clip, settings)};
      recorded.error_here = OutputError(weight, recorded.result.quantized, hessian);
      EXPECT_TRUE(recorded.result.compensated);
      EXPECT_EQ(recorded.result.damping, settings.damping);
      check(recorded);
      ++runs;
    }
  }
  EXPECT_EQ(runs, 36);
}

TEST(GptqRoundingTest, Float64EqualsTheIndependentProgramUpToTheFirstTieOfEachRow) {
  std::int64_t compared = 0;
  std::int64_t all = 0;
  ForEachRecordedRun(torch::kFloat64, [&](const Recorded& recorded) {
    const Quantized& quantized = recorded.result.quantized;
    for (std::int64_t row = 0; row < recorded.codes.size(0); ++row) {
      const std::int64_t count = recorded.compared[static_cast<std::size_t>(row)];
      const Tensor columns = recorded.order.slice(0, 0, count);
      EXPECT_TRUE(torch::equal(quantized.codes[row].index_select(0, columns),
                               recorded.codes[row].index_select(0, columns)))
          << "row " << row;
      if (count < recorded.codes.size(1)) continue;
      EXPECT_TRUE(torch::equal(quantized.scales[row], recorded.scales[row])) << "row " << row;
      EXPECT_TRUE(torch::equal(quantized.zeros[row], recorded.zeros[row])) << "row " << row;
    }
    for (const std::int64_t count : recorded.compared) compared += count;
    all += recorded.codes.numel();
  });
  EXPECT_GT(compared, all * 99 / 100);
}

TEST(GptqRoundingTest, Float32HasNearlyAllCodesAndTheErrorOfTheIndependentProgram) {
  ForEachRecordedRun(torch::kFloat32, [](const Recorded& recorded) {
    const Tensor equal = recorded.result.quantized.codes == recorded.codes;
    EXPECT_GE(equal.to(torch::kFloat64).mean().item<double>(), 0.99);
    EXPECT_NEAR(recorded.error_here, recorded.error, 0.01 * recorded.error);
  });
}

TEST(GptqRoundingTest, Float32AgreesWithFloat64OnALargerLayer) {
  torch::manual_seed(3);
  const Tensor weight = torch::randn({128, 512}) * 0.1;
  const Tensor hessian = CorrelatedHessian(1024, 512);
  const LayerGrid grid{true, 4, 32, false};
  for (const GptqSettings& settings : kVariants) {
    SCOPED_TRACE(Describe(grid, settings));
    const Quantized single = RoundGptq(weight, hessian, grid, {}, settings).quantized;
    const Quantized exact =
        RoundGptq(weight.to(torch::kFloat64), hessian.to(torch::kFloat64), grid, {}, settings)
            .quantized;
    EXPECT_GE((single.codes == exact.codes).to(torch::kFloat64).mean().item<double>(), 0.99);
    const double error = OutputError(weight, exact, hessian);
    EXPECT_NEAR(OutputError(weight, single, hessian), error, 0.01 * error);
  }
}

TEST(GptqRoundingTest, InputsThatAreIndependentLeaveNothingButNearestRounding) {
  torch::manual_seed(4);
  const Tensor weight = torch::randn({16, 192});
  const Tensor hessian = torch::rand({192}).diag();  // an order that differs from the left to right
  for (const LayerGrid& grid : Grids()) {
    const Quantized nearest = QuantizeToNearest(weight, grid);
    for (const GptqSettings& settings : kVariants) {
      EXPECT_TRUE(Equal(RoundGptq(weight, hessian, grid, {}, settings).quantized, nearest))
          << Describe(grid, settings);
    }
  }
}

TEST(GptqRoundingTest, CorrelatedInputsMakeTheErrorSmallerThanNearestRounding) {
  torch::manual_seed(5);
  const Tensor weight = torch::randn({16, 192}) * 0.1;
  const Tensor hessian = CorrelatedHessian(512, 192);
  for (const LayerGrid& grid : Grids()) {
    const double nearest = OutputError(weight, QuantizeToNearest(weight, grid), hessian);
    for (const GptqSettings& settings : kVariants) {
      const GptqResult result = RoundGptq(weight, hessian, grid, {}, settings);
      EXPECT_LT(OutputError(weight, result.quantized, hessian), nearest)
          << Describe(grid, settings);
    }
  }
}

// Ranges of the original weights do not depend on the order, so they show which weights are a
// group.
TEST(GptqRoundingTest, OrderByActivationKeepsEveryColumnInItsGroup) {
  torch::manual_seed(6);
  const Tensor weight = torch::randn({8, 192});
  const Tensor hessian = CorrelatedHessian(256, 192);
  const LayerGrid grid{true, 4, 16, false};
  const ClipFactors clip{torch::rand({8, 12}) * 0.5 + 0.5, torch::rand({8, 12}) * 0.5 + 0.5};
  const Quantized nearest = QuantizeToNearest(weight, grid, {clip, {}});
  const Quantized quantized =
      RoundGptq(weight, hessian, grid, clip, {.before_update = true}).quantized;
  EXPECT_TRUE(torch::equal(quantized.scales, nearest.scales));
  EXPECT_TRUE(torch::equal(quantized.zeros, nearest.zeros));
  EXPECT_FALSE(torch::equal(quantized.codes, nearest.codes));
}

TEST(GptqRoundingTest, AMultipleOfTheHessianChangesNothing) {
  torch::manual_seed(7);
  const Tensor weight = torch::randn({8, 64});
  Tensor hessian = CorrelatedHessian(32, 64);
  hessian.index_fill_(0, torch::tensor({3, 40}), 0).index_fill_(1, torch::tensor({3, 40}), 0);
  const LayerGrid grid{true, 4, 16, false};
  const GptqResult result = RoundGptq(weight, hessian, grid, {}, {});
  for (const double factor : {0x1p-40, 0x1p40}) {
    EXPECT_TRUE(
        Equal(RoundGptq(weight, hessian * factor, grid, {}, {}).quantized, result.quantized))
        << factor;
  }
}

TEST(GptqRoundingTest, DeadColumnsAreReportedAndRoundedToNearest) {
  torch::manual_seed(8);
  const Tensor weight = torch::randn({8, 64});
  const Tensor dead = torch::tensor({0, 17, 18, 63});
  const Tensor hessian = CorrelatedHessian(256, 64).index_fill_(0, dead, 0).index_fill_(1, dead, 0);
  const LayerGrid grid{true, 4, 16, false};
  const Quantized nearest = QuantizeToNearest(weight, grid);
  const GptqResult result = RoundGptq(weight, hessian, grid, {}, {.before_update = true});
  EXPECT_EQ(result.dead_columns, 4);
  EXPECT_EQ(result.damping, 0.01);
  EXPECT_TRUE(torch::equal(result.quantized.codes.index_select(1, dead),
                           nearest.codes.index_select(1, dead)));
  EXPECT_LT(OutputError(weight, result.quantized, hessian), OutputError(weight, nearest, hessian));
}

TEST(GptqRoundingTest, FewSamplesRaiseADampingOfZeroAndReportIt) {
  torch::manual_seed(9);
  const Tensor weight = torch::randn({8, 64});
  const Tensor hessian = CorrelatedHessian(20, 64);
  const LayerGrid grid{true, 4, 16, false};
  for (const auto type : {torch::kFloat32, torch::kFloat64}) {
    const GptqResult result =
        RoundGptq(weight.to(type), hessian.to(type), grid, {}, {.damping = 0});
    EXPECT_TRUE(result.compensated);
    EXPECT_EQ(result.damping, 1e-4);
    EXPECT_LT(OutputError(weight, result.quantized, hessian),
              OutputError(weight, QuantizeToNearest(weight, grid), hessian));
  }
}

// Two equal inputs; their Hessian is positive definite by the last bit alone.
TEST(GptqRoundingTest, APivotThatIsOnlyRoundingCountsAsSingular) {
  torch::manual_seed(13);
  Tensor hessian = torch::eye(8);
  hessian[2][5] = hessian[5][2] = 1;
  hessian[5][5] = 1 + std::numeric_limits<float>::epsilon();
  const GptqResult result =
      RoundGptq(torch::randn({4, 8}), hessian, {true, 4, 8, false}, {}, {.damping = 0});
  EXPECT_TRUE(result.compensated);
  EXPECT_EQ(result.damping, 1e-4);
}

// A mean diagonal of 1 and an eigenvalue of -0.05: 0.01 does not suffice, 0.1 does.
TEST(GptqRoundingTest, DampingGrowsTenfoldUntilTheHessianIsPositiveDefinite) {
  torch::manual_seed(10);
  Tensor hessian = torch::eye(32);
  hessian[4][9] = hessian[9][4] = 1.05;
  const GptqResult result = RoundGptq(torch::randn({4, 32}), hessian, {true, 4, 8, false}, {}, {});
  EXPECT_TRUE(result.compensated);
  EXPECT_DOUBLE_EQ(result.damping, 0.1);
}

TEST(GptqRoundingTest, AHessianThatNothingMakesDefiniteLeavesNearestRoundingAndSaysSo) {
  torch::manual_seed(11);
  const Tensor weight = torch::randn({8, 64});
  const LayerGrid grid{true, 4, 16, false};
  Tensor infinite = CorrelatedHessian(256, 64);
  infinite[3][3] = std::numeric_limits<float>::infinity();
  const Tensor nan = torch::full({64, 64}, std::numeric_limits<float>::quiet_NaN());
  for (const Tensor& hessian : {infinite, nan}) {
    const GptqResult result = RoundGptq(weight, hessian, grid, {}, {});
    EXPECT_FALSE(result.compensated);
    EXPECT_TRUE(Equal(result.quantized, QuantizeToNearest(weight, grid)));
  }
}

TEST(GptqRoundingTest, WithoutAnySampleEveryColumnIsDead) {
  torch::manual_seed(12);
  const Tensor weight = torch::randn({8, 64});
  const LayerGrid grid{true, 4, 16, false};
  const GptqResult result = RoundGptq(weight, torch::zeros({64, 64}), grid, {}, {});
  EXPECT_EQ(result.dead_columns, 64);
  EXPECT_TRUE(Equal(result.quantized, QuantizeToNearest(weight, grid)));
}

}  // namespace
}  // namespace teq::quant
