#include <cmath>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using Key = LegendEntry::Key;
using teq::v1::LayerReport;

// Models with more blocks unfold their rows on demand; fewer say too little by depth.
constexpr std::size_t kFewBlocks = 12;
constexpr std::size_t kFewestForDepth = 3;

struct Errors {
  double result = 0;
  double plain = 0;
};

Errors ErrorsOf(const LayerGrid::Cell& cell) {
  std::vector<double> result;
  std::vector<double> plain;
  for (const LayerReport* layer : cell.layers) {
    result.push_back(layer->output_mse());
    plain.push_back(layer->output_mse_round_to_nearest());
  }
  return {GeometricMean(result), GeometricMean(plain)};
}

std::string HintOf(const LayerGrid::Row& row, const std::string& kind, const Errors& errors) {
  return fmt::format("block {}, {}: {}, plain rounding {}", row.name, kind,
                     Significant(errors.result), Significant(errors.plain));
}

std::vector<double> AllErrors(const LayerGrid& grid) {
  std::vector<double> values;
  for (const LayerGrid::Row& row : grid.rows()) {
    for (const LayerGrid::Cell& cell : row.cells) {
      const Errors errors = ErrorsOf(cell);
      values.insert(values.end(), {errors.result, errors.plain});
    }
  }
  return values;
}

std::string BlockPanel(const LayerGrid& grid, std::size_t number, const Axis& axis) {
  const LayerGrid::Row& row = grid.rows()[number];
  RowPlot plot({.id = fmt::format("error-{}", number),
                .title = fmt::format("Output errors of block {}", row.name),
                .description = "One row for each layer: hollow, plain rounding; filled, the "
                               "published weights; at the right, their ratio.",
                .left = 76,
                .right = 42,
                .x_ticks = 4},
               axis);
  for (std::size_t kind = 0; kind < row.cells.size(); ++kind) {
    if (row.cells[kind].layers.empty()) continue;
    const Errors errors = ErrorsOf(row.cells[kind]);
    const double ratio = ErrorRatio(row.cells[kind]);
    const std::string hint = HintOf(row, grid.kinds()[kind], errors);
    plot.BeginRow(grid.names()[kind], grid.kinds()[kind], Times(ratio));
    plot.AddSpan(errors.plain, errors.result, ratio > 1 ? "plain" : "result", hint);
    plot.AddDot(errors.plain, "plain hollow", hint);
    plot.AddDot(errors.result, "result", hint);
  }
  return fmt::format("<div class=\"panel\"><h4>Block {}</h4>{}</div>\n", Escape(row.name),
                     plot.Svg());
}

std::string BlockPanels(const LayerGrid& grid, const Axis& axis) {
  std::string panels = "<div class=\"panels roomy\">\n";
  for (std::size_t number = 0; number < grid.rows().size(); ++number) {
    panels += BlockPanel(grid, number, axis);
  }
  panels += "</div>\n";
  if (grid.rows().size() <= kFewBlocks) return panels;
  return Unfolding(fmt::format("Layer by layer, in {} blocks", grid.rows().size()), panels);
}

std::vector<double> BlockNumbers(const LayerGrid& grid) {
  std::vector<double> numbers;
  for (const LayerGrid::Row& row : grid.rows()) {
    if (row.block) numbers.push_back(static_cast<double>(*row.block));
  }
  return numbers;
}

std::string DepthPanel(const LayerGrid& grid, std::size_t kind, const Axis& blocks,
                       const Axis& axis) {
  XyPlot plot({.id = fmt::format("depth-{}", kind),
               .title = fmt::format("Output error of {} by depth", grid.kinds()[kind]),
               .description = "Across: blocks from the first to the last. Upwards: mean squared "
                              "output error, of plain rounding and of the published weights.",
               .height = 110,
               .left = 44,
               .right = 10,
               .x_ticks = 4,
               .y_ticks = 4},
              blocks, axis);
  std::vector<Point> result;
  std::vector<Point> plain;
  for (const LayerGrid::Row& row : grid.rows()) {
    if (!row.block) continue;
    const Errors errors = ErrorsOf(row.cells[kind]);
    const auto block = static_cast<double>(*row.block);
    plain.push_back({block, errors.plain});
    result.push_back({block, errors.result});
  }
  plot.AddLine(plain, "plain");
  plot.AddLine(result, "result");
  plot.AddCloud(plain, "plain");
  plot.AddCloud(result, "result");
  return fmt::format("<div class=\"panel\"><h4 title=\"{}\">{}</h4>{}</div>\n",
                     Escape(grid.kinds()[kind]), Escape(grid.names()[kind]), plot.Svg());
}

std::string DepthPanels(const LayerGrid& grid, const Axis& axis) {
  const std::vector<double> numbers = BlockNumbers(grid);
  if (numbers.size() < kFewestForDepth) return {};
  const Axis blocks = Axis::Counting(numbers);
  std::string panels;
  for (std::size_t kind = 0; kind < grid.kinds().size(); ++kind) {
    panels += DepthPanel(grid, kind, blocks, axis);
  }
  return "<p class=\"label\">By depth, for each kind of layer</p>\n" + Panels(panels) +
         "<p class=\"label\">By layer, block for block</p>\n";
}

Table ErrorTable(const LayerGrid& grid) {
  Table table("Mean squared errors, by layer", {{"Layer", Table::Align::kText},
                                                {"Output"},
                                                {"Output, plain rounding"},
                                                {"Ratio"},
                                                {"Weights"}});
  for (const LayerGrid::Row& row : grid.rows()) {
    for (const LayerGrid::Cell& cell : row.cells) {
      for (const LayerReport* layer : cell.layers) {
        const double ratio = ErrorRatio(*layer);
        table.AddRow({layer->name(), Significant(layer->output_mse()),
                      Significant(layer->output_mse_round_to_nearest()),
                      std::isnan(ratio) ? "–" : Fixed(ratio, 4), Significant(layer->weight_mse())});
      }
    }
  }
  return table;
}

}  // namespace

std::string ErrorSection(const LayerGrid& grid) {
  if (grid.empty()) return {};
  const Axis axis = Axis::Logarithmic(AllErrors(grid));
  const LegendEntry legend[] = {{Key::kDot, "plain hollow", "plain rounding"},
                                {Key::kDot, "result", "published"}};
  // What cannot be placed has no panels, but still its table.
  const std::string body = axis.empty()
                               ? Paragraph("No error could be drawn on a logarithmic axis.")
                               : Legend(legend) + DepthPanels(grid, axis) + BlockPanels(grid, axis);
  return Section("errors", "Error by layer",
                 Figure{.title = "Mean squared error of each layer's output on calibration inputs.",
                        .caption = "All panels share one logarithmic axis; at the right of a row, "
                                   "the published weights' error over plain rounding's.",
                        .body_html = body,
                        .table_html = ErrorTable(grid).Html()}
                     .Html());
}

}  // namespace teq::report
