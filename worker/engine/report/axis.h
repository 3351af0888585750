#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace teq::report {

/// One scale of a plot: values to positions from 0 to 1, and the ticks between them. Values that
/// are not finite (on a logarithmic axis: or not positive) have no position.
class Axis {
 public:
  struct Tick {
    double position = 0;
    std::string label;
  };

  /// From the least to the greatest of `values`, and `padding` of that range beyond both.
  [[nodiscard]] static Axis Linear(std::span<const double> values, double padding = 0.06);
  [[nodiscard]] static Axis Logarithmic(std::span<const double> values, double padding = 0.06);

  /// For whole numbers such as steps or blocks: ticks at whole numbers only.
  [[nodiscard]] static Axis Counting(std::span<const double> values, double padding = 0);

  /// Logarithmic where positive `values` differ by more than a factor of 12, else linear.
  [[nodiscard]] static Axis Fitting(std::span<const double> values);

  /// Whether none of the values could be placed.
  [[nodiscard]] bool empty() const { return empty_; }
  [[nodiscard]] bool logarithmic() const { return logarithmic_; }

  /// May lie outside [0, 1] for a value that the axis was not made from.
  [[nodiscard]] std::optional<double> Position(double value) const;

  /// At most about `count` ticks.
  [[nodiscard]] std::vector<Tick> Ticks(int count = 5) const;

 private:
  Axis(std::span<const double> values, double padding, bool logarithmic, bool whole);

  [[nodiscard]] std::vector<Tick> LinearTicks(double low, double high, int count) const;
  [[nodiscard]] std::vector<Tick> PowerTicks(int count) const;

  bool empty_ = true;
  bool logarithmic_ = false;
  bool whole_ = false;
  // Of the values, or of their decimal logarithms.
  double low_ = 0;
  double high_ = 1;
};

}  // namespace teq::report
