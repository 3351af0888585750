#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "worker/engine/report/layer_grid.h"

namespace teq::report {

/// Values below `below` (and of no earlier step) have one colour.
struct HeatStep {
  double below;
  std::string_view style;  // a class of the style sheet
  std::string_view text;   // in the legend
};

/// Errors over plain rounding's: blue below 1, orange above.
[[nodiscard]] std::span<const HeatStep> RatioSteps();
/// Octaves: the darker, the more.
[[nodiscard]] std::span<const HeatStep> OctaveSteps();
/// Shares from 0 to 1: the darker, the more.
[[nodiscard]] std::span<const HeatStep> ShareSteps();
/// Widths of codes: the darker, the more bits.
[[nodiscard]] std::span<const HeatStep> BitSteps();

/// The steps' colours, for a legend.
[[nodiscard]] std::string StepsLegend(std::span<const HeatStep> steps);

/// The style of the step that holds `value`; "none" for NaN.
[[nodiscard]] std::string_view StyleOf(double value, std::span<const HeatStep> steps);

/// What a heat map shows of each cell of the grid.
struct HeatQuantity {
  std::string caption;
  std::span<const HeatStep> steps;
  std::function<double(const LayerGrid::Cell&)> value;  // NaN: nothing to show
  std::function<std::string(double)> text;
  std::function<double(std::span<const double>)> mean;
  /// Whether neighbours that are scaled by the same groups are drawn as one cell.
  bool joins_shared_groups = false;
};

/// A table of blocks by kinds of layer, coloured by the quantity, with its means by block and by
/// kind, and a legend.
[[nodiscard]] std::string HeatMap(const LayerGrid& grid, const HeatQuantity& quantity);

}  // namespace teq::report
