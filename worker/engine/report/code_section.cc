#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "worker/engine/report/heat_map.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using Key = LegendEntry::Key;
using teq::v1::LayerReport;

constexpr std::size_t kFewBlocks = 12;

bool Any(const LayerGrid& grid, const std::function<bool(const LayerReport&)>& is_so) {
  for (const LayerGrid::Row& row : grid.rows()) {
    for (const LayerGrid::Cell& cell : row.cells) {
      if (std::ranges::any_of(cell.layers, [&](const LayerReport* l) { return is_so(*l); })) {
        return true;
      }
    }
  }
  return false;
}

void ForEachLayer(const LayerGrid& grid, const std::function<void(const LayerReport&)>& visit) {
  for (const LayerGrid::Row& row : grid.rows()) {
    for (const LayerGrid::Cell& cell : row.cells) {
      for (const LayerReport* layer : cell.layers) visit(*layer);
    }
  }
}

// The mean over a cell's layers of one number.
double MeanOf(const LayerGrid::Cell& cell, const std::function<double(const LayerReport&)>& value) {
  std::vector<double> values;
  for (const LayerReport* layer : cell.layers) values.push_back(value(*layer));
  return Mean(values);
}

// Bits and group sizes that occur.
std::set<std::pair<int, int>> GridsOf(const LayerGrid& grid) {
  std::set<std::pair<int, int>> grids;
  ForEachLayer(grid,
               [&](const LayerReport& layer) { grids.emplace(layer.bits(), layer.group_size()); });
  return grids;
}

std::string GroupText(int group_size) { return group_size < 0 ? "whole row" : Count(group_size); }

std::string BitsFigure(const LayerGrid& grid) {
  Table table("Grids, by layer", {{"Layer", Table::Align::kText}, {"Bits"}, {"Group size"}});
  ForEachLayer(grid, [&](const LayerReport& layer) {
    table.AddRow({layer.name(), Count(layer.bits()), GroupText(layer.group_size())});
  });
  if (const auto grids = GridsOf(grid); grids.size() == 1) {
    const auto [bits, group_size] = *grids.begin();
    return Figure{.title = "Bits of a code.",
                  .caption = fmt::format("{} in every layer; columns in a group: {}.", bits,
                                         GroupText(group_size)),
                  .body_html = "",
                  .table_html = table.Html()}
        .Html();
  }
  return Figure{.title = "Bits of a code.",
                .caption = "Means are over layers, not weighted by their sizes.",
                .body_html = HeatMap(grid, {.caption = "Bits, by block and kind of layer",
                                            .steps = BitSteps(),
                                            .value =
                                                [](const LayerGrid::Cell& cell) {
                                                  return MeanOf(cell, [](const LayerReport& layer) {
                                                    return static_cast<double>(layer.bits());
                                                  });
                                                },
                                            .text = [](double bits) { return Brief(bits); },
                                            .mean = Mean}),
                .table_html = table.Html()}
      .Html();
}

std::string ChangedFigure(const LayerGrid& grid) {
  if (!Any(grid, [](const LayerReport& layer) { return layer.changed_codes() != 0; })) return {};
  Table table("Changed codes, by layer", {{"Layer", Table::Align::kText}, {"Share"}});
  ForEachLayer(grid, [&](const LayerReport& layer) {
    table.AddRow({layer.name(), Percent(layer.changed_codes(), 2)});
  });
  return Figure{.title = "Changed codes, per cent.",
                .caption = "Share of codes that are not the nearest ones on the same grid.",
                .body_html = HeatMap(
                    grid, {.caption = "Changed codes in per cent, by block and kind of layer",
                           .steps = ShareSteps(),
                           .value =
                               [](const LayerGrid::Cell& cell) {
                                 return MeanOf(cell, [](const LayerReport& layer) {
                                   return layer.changed_codes();
                                 });
                               },
                           .text = [](double share) { return Fixed(100 * share, 1); },
                           .mean = Mean}),
                .table_html = table.Html()}
      .Html();
}

// Panels of rows, one panel for each block; those of deep models unfold on demand.
std::string RowPanels(const LayerGrid& grid, const Drawing& drawing, const Axis& axis,
                      const std::function<void(RowPlot&, const LayerReport&)>& add_marks) {
  std::string panels;
  for (std::size_t number = 0; number < grid.rows().size(); ++number) {
    const LayerGrid::Row& row = grid.rows()[number];
    Drawing own = drawing;
    own.id = fmt::format("{}-{}", drawing.id, number);
    own.title = fmt::format("{}, block {}", drawing.title, row.name);
    RowPlot plot(own, axis);
    for (std::size_t kind = 0; kind < row.cells.size(); ++kind) {
      if (row.cells[kind].layers.empty()) continue;
      // Of experts, the first.
      const LayerReport& layer = *row.cells[kind].layers.front();
      plot.BeginRow(grid.names()[kind], layer.name(), "");
      add_marks(plot, layer);
    }
    panels += fmt::format("<div class=\"panel\"><h4>Block {}</h4>{}</div>\n", Escape(row.name),
                          plot.Svg());
  }
  panels = fmt::format("<div class=\"panels roomy\">\n{}</div>\n", panels);
  if (grid.rows().size() <= kFewBlocks) return panels;
  return Unfolding(fmt::format("Layer by layer, in {} blocks", grid.rows().size()), panels);
}

Table ClippingTable(const LayerGrid& grid) {
  Table table("Clipping factors over the groups of each layer", {{"Layer", Table::Align::kText},
                                                                 {"Mean of the lower"},
                                                                 {"Mean of the upper"},
                                                                 {"Least"},
                                                                 {"Greatest"}});
  ForEachLayer(grid, [&](const LayerReport& layer) {
    if (!layer.has_clipping()) return;
    const teq::v1::ClippingReport& clipping = layer.clipping();
    table.AddRow({layer.name(), Fixed(clipping.low_mean(), 4), Fixed(clipping.high_mean(), 4),
                  Fixed(clipping.min(), 4), Fixed(clipping.max(), 4)});
  });
  return table;
}

void AddClipping(RowPlot& plot, const LayerReport& layer) {
  if (!layer.has_clipping()) return;
  const teq::v1::ClippingReport& clipping = layer.clipping();
  const std::string hint =
      fmt::format("{}: lower {}, upper {} in the mean; from {} to {}", layer.name(),
                  Fixed(clipping.low_mean(), 3), Fixed(clipping.high_mean(), 3),
                  Fixed(clipping.min(), 3), Fixed(clipping.max(), 3));
  plot.AddSpan(clipping.min(), clipping.max(), "muted", hint);
  plot.AddDot(clipping.low_mean(), "result hollow", hint);
  plot.AddDot(clipping.high_mean(), "result", hint);
}

std::string ClippingFigure(const LayerGrid& grid) {
  std::vector<double> factors = {1};
  ForEachLayer(grid, [&](const LayerReport& layer) {
    if (!layer.has_clipping()) return;
    const teq::v1::ClippingReport& clipping = layer.clipping();
    factors.insert(factors.end(),
                   {clipping.low_mean(), clipping.high_mean(), clipping.min(), clipping.max()});
  });
  if (factors.size() == 1) return {};
  const LegendEntry legend[] = {{Key::kDot, "result hollow", "lower end, mean over groups"},
                                {Key::kDot, "result", "upper end, mean"},
                                {Key::kLine, "muted", "from the least to the greatest"}};
  return Figure{.title = "Clipping.",
                .caption = "Factors on the ends of a group's range; 1 clips nothing.",
                .body_html = Legend(legend) + RowPanels(grid,
                                                        {.id = "clipping",
                                                         .title = "Clipping factors",
                                                         .description = "One row for each layer.",
                                                         .x_ticks = 4},
                                                        Axis::Linear(factors), AddClipping),
                .table_html = ClippingTable(grid).Html()}
      .Html();
}

Table SensitivityTable(const LayerGrid& grid) {
  Table table("Divergence with a layer and those of its width rounded, at each width",
              {{"Layer", Table::Align::kText}, {"Chosen"}, {"Bits"}, {"Error"}});
  ForEachLayer(grid, [&](const LayerReport& layer) {
    for (const teq::v1::BitsSensitivity& width : layer.sensitivity()) {
      table.AddRow(
          {layer.name(), Count(layer.bits()), Count(width.bits()), Significant(width.error())});
    }
  });
  return table;
}

void AddSensitivity(RowPlot& plot, const LayerReport& layer) {
  for (const teq::v1::BitsSensitivity& width : layer.sensitivity()) {
    plot.AddDot(
        width.error(), width.bits() == layer.bits() ? "result" : "muted hollow",
        fmt::format("{}: {} at {} bits", layer.name(), Significant(width.error()), width.bits()));
  }
}

std::string SensitivityFigure(const LayerGrid& grid) {
  std::vector<double> errors;
  ForEachLayer(grid, [&](const LayerReport& layer) {
    for (const teq::v1::BitsSensitivity& width : layer.sensitivity()) {
      errors.push_back(width.error());
    }
  });
  if (errors.empty()) return {};
  const Axis axis = Axis::Logarithmic(errors);
  const LegendEntry legend[] = {{Key::kDot, "muted hollow", "other widths, 8 bits leftmost"},
                                {Key::kDot, "result", "the width that was chosen"}};
  const std::string panels = RowPanels(grid,
                                       {.id = "sensitivity",
                                        .title = "Sensitivity to the width",
                                        .description = "One row for each layer.",
                                        .x_ticks = 4},
                                       axis, AddSensitivity);
  return Figure{.title = "Sensitivity.",
                .caption =
                    "What each width costs a layer and those that share its width: divergence of "
                    "the model with only these rounded from the float one, nats per token. From it "
                    "the widths were chosen.",
                .body_html = axis.empty() ? std::string() : Legend(legend) + panels,
                .table_html = SensitivityTable(grid).Html()}
      .Html();
}

}  // namespace

std::string CodeSection(const LayerGrid& grid) {
  if (grid.empty()) return {};
  return Section(
      "codes", "Bits, clipping and codes",
      fmt::format("<div class=\"pair\">\n{}{}</div>\n", BitsFigure(grid), ChangedFigure(grid)) +
          SensitivityFigure(grid) + ClippingFigure(grid));
}

}  // namespace teq::report
