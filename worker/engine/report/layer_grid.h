#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "teq/v1/report.pb.h"

namespace teq::report {

/// Where a module stands: "model.layers.3.mlp.experts.7.w1" is in block 3, its kind is
/// "mlp.experts.*.w1". A name without a number is in no block, and a kind by itself.
struct ModulePlace {
  std::optional<std::int64_t> block;
  std::string kind;
};
[[nodiscard]] ModulePlace PlaceOf(std::string_view module_name);

/// The output error of a layer over that of plain rounding; NaN where that is 0 or not finite.
[[nodiscard]] double ErrorRatio(const teq::v1::LayerReport& layer);

/// log2(max / min) of a group's scales: how far they travelled apart. NaN where they are not
/// positive.
[[nodiscard]] double Octaves(const teq::v1::ScaleGroupReport& group);

/// Of the positive finite ones; NaN where there are none.
[[nodiscard]] double GeometricMean(std::span<const double> values);

/// Of the finite ones; NaN where there are none.
[[nodiscard]] double Mean(std::span<const double> values);

/// Short names for `kinds`: as few of the last parts as tell them apart ("self_attn.q_proj" is
/// "q_proj"), without an ending that all share ("q"), and never long.
[[nodiscard]] std::vector<std::string> ShortNames(std::span<const std::string> kinds);

/// The report's layers as a table of blocks by kinds of layer, both in the model's order. Experts
/// of one kind share a cell. Refers to the report.
class LayerGrid {
 public:
  /// Kinds beyond these share the last column: foreign names could give one for each layer.
  static constexpr std::size_t kMaxKinds = 24;

  struct Cell {
    std::vector<const teq::v1::LayerReport*> layers;
    /// The groups that scale these layers' input columns.
    std::vector<const teq::v1::ScaleGroupReport*> groups;
  };
  struct Row {
    std::optional<std::int64_t> block;  // none: layers outside of all blocks
    std::string name;                   // the block's number, or "other"
    std::vector<Cell> cells;            // by kind
  };

  explicit LayerGrid(const teq::v1::Report& report);

  [[nodiscard]] const std::vector<std::string>& kinds() const { return kinds_; }
  /// ShortNames of the kinds.
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  [[nodiscard]] const std::vector<Row>& rows() const { return rows_; }
  [[nodiscard]] bool empty() const { return rows_.empty(); }

 private:
  std::vector<std::string> kinds_;
  std::vector<std::string> names_;
  std::vector<Row> rows_;
};

/// The same of a cell's layers, in the geometric mean, and of its groups, in the mean.
[[nodiscard]] double ErrorRatio(const LayerGrid::Cell& cell);
[[nodiscard]] double Octaves(const LayerGrid::Cell& cell);

}  // namespace teq::report
