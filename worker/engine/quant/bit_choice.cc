#include "worker/engine/quant/bit_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace teq::quant {
namespace {

constexpr std::int64_t kMaxUnits = 65536;
constexpr double kUnreachable = std::numeric_limits<double>::infinity();

/// A candidate beside the layer's fewest bits.
struct Step {
  std::int64_t cost = 0;  // bits more, over all weights
  double error = 0;
};
using Steps = std::vector<Step>;

Steps StepsOf(const OpenLayer& layer) {
  Steps steps;
  double error = layer.candidates.front().error;
  for (const Candidate& candidate : layer.candidates) {
    error = std::min(error, candidate.error);
    steps.push_back({layer.weights * (candidate.bits - layer.candidates.front().bits), error});
  }
  return steps;
}

/// What the target leaves above the fewest bits of every layer.
std::int64_t Budget(const std::vector<OpenLayer>& layers, double target_bits) {
  std::int64_t weights = 0;
  std::int64_t fewest = 0;
  for (const OpenLayer& layer : layers) {
    weights += layer.weights;
    fewest += layer.weights * layer.candidates.front().bits;
  }
  const auto all =
      static_cast<std::int64_t>(std::floor(target_bits * static_cast<double>(weights)));
  return std::max<std::int64_t>(0, all - fewest);
}

/// Costs in units, of which the budget has few enough for a table.
std::int64_t InUnits(std::vector<Steps>& layers, std::int64_t budget) {
  std::int64_t unit = 0;
  for (const Steps& steps : layers) {
    for (const Step& step : steps) unit = std::gcd(unit, step.cost);
  }
  unit = std::max<std::int64_t>({1, unit, (budget + kMaxUnits - 1) / kMaxUnits});
  for (Steps& steps : layers) {
    for (Step& step : steps) step.cost = (step.cost + unit - 1) / unit;
  }
  return budget / unit;
}

/// The candidate of every layer.
std::vector<std::size_t> Solve(const std::vector<Steps>& layers, std::int64_t budget) {
  const auto states = static_cast<std::size_t>(budget + 1);
  // The least error of the layers so far by the units that they spend, and what the last took.
  std::vector<double> least(states, kUnreachable);
  least[0] = 0;
  std::vector<std::vector<std::uint8_t>> taken;
  for (const Steps& steps : layers) {
    std::vector<double> next(states, kUnreachable);
    std::vector<std::uint8_t>& last = taken.emplace_back(states);
    for (std::size_t candidate = 0; candidate < steps.size(); ++candidate) {
      const auto cost = static_cast<std::size_t>(steps[candidate].cost);
      for (std::size_t spent = cost; spent < states; ++spent) {
        const double error = least[spent - cost] + steps[candidate].error;
        if (!(error < next[spent])) continue;
        next[spent] = error;
        last[spent] = static_cast<std::uint8_t>(candidate);
      }
    }
    least = std::move(next);
  }
  std::size_t spent = 0;
  for (std::size_t state = 1; state < states; ++state) {
    if (least[state] < kUnreachable && least[state] <= least[spent]) spent = state;
  }
  std::vector<std::size_t> choice(layers.size());
  for (std::size_t layer = layers.size(); layer-- > 0;) {
    choice[layer] = taken[layer][spent];
    spent -= static_cast<std::size_t>(layers[layer][choice[layer]].cost);
  }
  return choice;
}

}  // namespace

std::vector<int> ChooseBits(const std::vector<OpenLayer>& layers, double target_bits) {
  std::vector<Steps> steps;
  std::vector<int> bits;
  std::int64_t most = 0;
  for (const OpenLayer& layer : layers) {
    steps.push_back(StepsOf(layer));
    bits.push_back(layer.candidates.back().bits);
    most += steps.back().back().cost;
  }
  const std::int64_t budget = Budget(layers, target_bits);
  // Costs that are rounded up might not fit where all do.
  if (most <= budget) return bits;
  const std::int64_t units = InUnits(steps, budget);
  const std::vector<std::size_t> choice = Solve(steps, units);
  for (std::size_t i = 0; i < layers.size(); ++i) bits[i] = layers[i].candidates[choice[i]].bits;
  return bits;
}

}  // namespace teq::quant
