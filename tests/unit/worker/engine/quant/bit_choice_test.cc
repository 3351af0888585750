#include "worker/engine/quant/bit_choice.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace teq::quant {
namespace {

using testing::ElementsAre;

std::int64_t Weights(const std::vector<OpenLayer>& layers) {
  std::int64_t weights = 0;
  for (const OpenLayer& layer : layers) weights += layer.weights;
  return weights;
}

std::int64_t TotalBits(const std::vector<OpenLayer>& layers, const std::vector<int>& bits) {
  std::int64_t total = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) total += layers[i].weights * bits[i];
  return total;
}

double TotalError(const std::vector<OpenLayer>& layers, const std::vector<int>& bits) {
  double error = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    for (const Candidate& candidate : layers[i].candidates) {
      if (candidate.bits == bits[i]) error += candidate.error;
    }
  }
  return error;
}

/// The least sum of errors with at most `budget` bits in all, over every combination.
double LeastError(const std::vector<OpenLayer>& layers, double budget, std::size_t first = 0) {
  if (first == layers.size()) return budget >= 0 ? 0 : std::numeric_limits<double>::infinity();
  double least = std::numeric_limits<double>::infinity();
  const OpenLayer& layer = layers[first];
  for (const Candidate& candidate : layer.candidates) {
    const double left = budget - static_cast<double>(layer.weights * candidate.bits);
    least = std::min(least, candidate.error + LeastError(layers, left, first + 1));
  }
  return least;
}

/// Layers whose errors fall with the bits, by factors that differ widely.
std::vector<OpenLayer> RandomLayers(std::mt19937_64& generator, std::size_t count,
                                    std::int64_t most_weights) {
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(generator);
  };
  std::vector<OpenLayer> layers(count);
  for (OpenLayer& layer : layers) {
    layer.weights = std::uniform_int_distribution<std::int64_t>(1, most_weights)(generator);
    double error = std::pow(10, uniform(-4, 0));
    for (const int bits : {2, 3, 4, 8}) {
      layer.candidates.push_back({bits, error});
      error *= uniform(0.05, 1);
    }
  }
  return layers;
}

TEST(BitChoiceTest, NoCombinationWithinTheTargetIsBetter) {
  std::mt19937_64 generator(1);
  for (int i = 0; i < 300; ++i) {
    const std::vector<OpenLayer> layers = RandomLayers(generator, 1 + i % 6, 50);
    const double target = std::uniform_real_distribution<double>(2, 8)(generator);
    const double budget = target * static_cast<double>(Weights(layers));
    const std::vector<int> bits = ChooseBits(layers, target);
    EXPECT_LE(static_cast<double>(TotalBits(layers, bits)), budget);
    EXPECT_NEAR(TotalError(layers, bits), LeastError(layers, budget), 1e-12);
  }
}

// Sizes without a common divisor: costs are rounded up, each by less than a unit.
TEST(BitChoiceTest, LayersWithoutACommonDivisorLoseAtMostOneUnitEach) {
  std::mt19937_64 generator(2);
  for (int i = 0; i < 40; ++i) {
    const std::vector<OpenLayer> layers = RandomLayers(generator, 5, 1'000'000'007);
    const double target = std::uniform_real_distribution<double>(2, 8)(generator);
    const double budget = target * static_cast<double>(Weights(layers));
    const double above_fewest = budget - 2.0 * static_cast<double>(Weights(layers));
    const std::vector<int> bits = ChooseBits(layers, target);
    EXPECT_LE(static_cast<double>(TotalBits(layers, bits)), budget);
    EXPECT_LE(TotalError(layers, bits),
              LeastError(layers, budget - 5 * (above_fewest / 65536 + 1)) + 1e-12);
  }
}

TEST(BitChoiceTest, TheEndsOfTheRangeLeaveNoChoice) {
  std::mt19937_64 generator(3);
  for (const std::int64_t most_weights : {50, 1'000'000'007}) {
    const std::vector<OpenLayer> layers = RandomLayers(generator, 6, most_weights);
    EXPECT_THAT(ChooseBits(layers, 2), ElementsAre(2, 2, 2, 2, 2, 2));
    EXPECT_THAT(ChooseBits(layers, 8), ElementsAre(8, 8, 8, 8, 8, 8));
  }
}

TEST(BitChoiceTest, TheSensitiveLayerGetsTheBits) {
  const std::vector<Candidate> robust = {{2, 0.02}, {3, 0.01}, {4, 0.005}, {8, 0}};
  const std::vector<Candidate> sensitive = {{2, 5.0}, {3, 1.0}, {4, 0.2}, {8, 0}};
  EXPECT_THAT(ChooseBits({{64, robust}, {64, sensitive}}, 3), ElementsAre(2, 4));
}

TEST(BitChoiceTest, TiesGoToMoreBitsAndToEarlierLayers) {
  const OpenLayer layer{8, {{2, 1}, {3, 0.5}, {4, 0}, {8, 0}}};
  EXPECT_THAT(ChooseBits({layer, layer, layer}, 2.7), ElementsAre(4, 2, 2));
  const OpenLayer indifferent{8, {{2, 0}, {3, 0}, {4, 0}, {8, 0}}};
  EXPECT_THAT(ChooseBits({indifferent, indifferent}, 5), ElementsAre(8, 2));
}

TEST(BitChoiceTest, AnErrorAboveThatOfFewerBitsIsNoise) {
  const OpenLayer noisy{8, {{2, 1}, {3, 1e-9}, {4, 3e-9}, {8, 2e-9}}};
  EXPECT_THAT(ChooseBits({noisy}, 8), ElementsAre(8));
  EXPECT_THAT(ChooseBits({noisy}, 5), ElementsAre(4));
}

TEST(BitChoiceTest, AModelOfManyLayersIsChosenAtOnce) {
  std::mt19937_64 generator(4);
  std::vector<OpenLayer> layers = RandomLayers(generator, 560, 1);
  // A 70B Llama's shapes.
  const std::int64_t sizes[] = {8192 * 8192,  8192 * 1024,  8192 * 1024, 8192 * 8192,
                                8192 * 28672, 8192 * 28672, 8192 * 28672};
  for (std::size_t i = 0; i < layers.size(); ++i) layers[i].weights = sizes[i % 7];
  const std::vector<int> bits = ChooseBits(layers, 3.5);
  const double average =
      static_cast<double>(TotalBits(layers, bits)) / static_cast<double>(Weights(layers));
  EXPECT_LE(average, 3.5);
  EXPECT_GT(average, 3.499);
}

}  // namespace
}  // namespace teq::quant
