#include "worker/engine/report/axis.h"

#include <algorithm>
#include <cmath>

#include "worker/engine/report/html.h"

namespace teq::report {
namespace {

constexpr double kLogarithmicFrom = 12;
// Below so many decades the ticks of a logarithmic axis are no powers of ten.
constexpr double kDecadesOfPowers = 2;

// How much below what was asked a round step may be.
constexpr double kFinest = 0.7;

// A round number (1, 2 or 5 times a power of ten) near `step`.
double RoundStep(double step) {
  const double power = std::pow(10, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= step * kFinest) return factor * power;
  }
  return 10 * power;
}

}  // namespace

Axis::Axis(std::span<const double> values, double padding, bool logarithmic, bool whole)
    : logarithmic_(logarithmic), whole_(whole) {
  for (const double value : values) {
    if (!std::isfinite(value) || (logarithmic && value <= 0)) continue;
    const double place = logarithmic ? std::log10(value) : value;
    low_ = empty_ ? place : std::min(low_, place);
    high_ = empty_ ? place : std::max(high_, place);
    empty_ = false;
  }
  if (empty_) return;
  // Halves, because the difference of two finite numbers may not be finite.
  double half = high_ / 2 - low_ / 2;
  if (half <= std::abs(low_) * 1e-12) {
    half = logarithmic ? 0.15 : whole ? 0.5 : std::max(std::abs(low_) * 0.05, 1e-9);
    low_ -= half;
    high_ += half;
    return;
  }
  low_ -= 2 * padding * half;
  high_ += 2 * padding * half;
}

Axis Axis::Linear(std::span<const double> values, double padding) {
  return {values, padding, /*logarithmic=*/false, /*whole=*/false};
}

Axis Axis::Logarithmic(std::span<const double> values, double padding) {
  return {values, padding, /*logarithmic=*/true, /*whole=*/false};
}

Axis Axis::Counting(std::span<const double> values, double padding) {
  return {values, padding, /*logarithmic=*/false, /*whole=*/true};
}

Axis Axis::Fitting(std::span<const double> values) {
  const Axis positive = Logarithmic(values);
  const bool all_positive =
      std::ranges::none_of(values, [](double v) { return std::isfinite(v) && v <= 0; });
  const bool wide = positive.high_ - positive.low_ > std::log10(kLogarithmicFrom);
  return all_positive && wide ? positive : Linear(values);
}

std::optional<double> Axis::Position(double value) const {
  if (empty_ || !std::isfinite(value) || (logarithmic_ && value <= 0)) return std::nullopt;
  const double place = logarithmic_ ? std::log10(value) : value;
  const double position = (place / 2 - low_ / 2) / (high_ / 2 - low_ / 2);
  return std::isfinite(position) ? std::optional(position) : std::nullopt;
}

std::vector<Axis::Tick> Axis::Ticks(int count) const {
  if (empty_) return {};
  if (!logarithmic_) return LinearTicks(low_, high_, count);
  if (high_ - low_ >= kDecadesOfPowers) return PowerTicks(count);
  return LinearTicks(std::pow(10, low_), std::pow(10, high_), count);
}

std::vector<Axis::Tick> Axis::LinearTicks(double low, double high, int count) const {
  double step = (high - low) / count;
  if (!std::isfinite(step) || step <= 0 || low + step == low) return {};
  step = RoundStep(step);
  if (whole_) step = std::max(step, 1.0);
  const double first = std::ceil(low / step - 1e-9);
  std::vector<Tick> ticks;
  for (int i = 0; i <= 2 * count; ++i) {
    const double value = (first + i) * step;
    if (value > high + step * 1e-9) break;
    if (const std::optional<double> position = Position(value)) {
      ticks.push_back({*position, Brief(value, 6)});
    }
  }
  return ticks;
}

std::vector<Axis::Tick> Axis::PowerTicks(int count) const {
  const double stride = std::max(1.0, std::ceil((high_ - low_) / count));
  std::vector<Tick> ticks;
  for (double power = std::ceil(low_ / stride) * stride; power <= high_; power += stride) {
    const double value = std::pow(10, power);
    ticks.push_back({(power - low_) / (high_ - low_), Brief(value, 1)});
  }
  return ticks;
}

}  // namespace teq::report
