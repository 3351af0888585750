#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "worker/engine/report/heat_map.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using Key = LegendEntry::Key;
using teq::v1::LayerReport;
using teq::v1::Report;
using teq::v1::ScaleGroupReport;

constexpr std::size_t kNamed = 3;           // layers or groups that the reading names
constexpr std::size_t kFewestForRanks = 8;  // layers below which ranks say nothing
constexpr double kWeakCorrelation = 0.3;
// Ratios this close to 1 are taken for no difference.
constexpr double kNoDifference = 0.005;

// A layer's gain beside how far the scales of its inputs travelled.
struct Outcome {
  const LayerReport* layer = nullptr;
  double octaves = std::numeric_limits<double>::quiet_NaN();
  double ratio = std::numeric_limits<double>::quiet_NaN();
};

std::vector<Outcome> OutcomesOf(const Report& report) {
  std::map<std::string_view, double> octaves;
  for (const ScaleGroupReport& group : report.scale_groups()) {
    for (const std::string& consumer : group.consumers()) octaves[consumer] = Octaves(group);
  }
  std::vector<Outcome> outcomes;
  for (const LayerReport& layer : report.layers()) {
    Outcome& outcome = outcomes.emplace_back(Outcome{.layer = &layer, .ratio = ErrorRatio(layer)});
    const auto found = octaves.find(layer.name());
    if (found != octaves.end()) outcome.octaves = found->second;
  }
  return outcomes;
}

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::size_t i) { return values[i]; });
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = static_cast<double>(begin + end + 1) / 2;
    for (; begin < end; ++begin) ranks[order[begin]] = rank;
  }
  return ranks;
}

// Spearman's; NaN where one side does not vary.
double RankCorrelation(const std::vector<double>& left, const std::vector<double>& right) {
  const std::vector<double> x = Ranks(left);
  const std::vector<double> y = Ranks(right);
  const double mean = (static_cast<double>(x.size()) + 1) / 2;
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xy / std::sqrt(xx * yy);
}

std::string FurthestScales(const Report& report) {
  std::vector<std::pair<double, const ScaleGroupReport*>> groups;
  for (const ScaleGroupReport& group : report.scale_groups()) {
    if (Octaves(group) > 0) groups.emplace_back(Octaves(group), &group);
  }
  if (groups.empty()) return {};
  std::ranges::stable_sort(groups, std::ranges::greater(),
                           &std::pair<double, const ScaleGroupReport*>::first);
  groups.resize(std::min(groups.size(), kNamed));
  std::vector<std::string> named;
  named.reserve(groups.size());
  for (const auto& [octaves, group] : groups) {
    named.push_back(fmt::format("{} ({} octaves, from {} to {})", group->producer(),
                                Fixed(octaves, 2), Significant(group->min(), 3),
                                Significant(group->max(), 3)));
  }
  return fmt::format("The scales travelled furthest behind {}.", fmt::join(named, ", "));
}

std::string GreatestGains(std::vector<Outcome> outcomes) {
  std::erase_if(outcomes, [](const Outcome& o) { return !(o.ratio < 1 - kNoDifference); });
  if (outcomes.empty()) return "No layer has a smaller output error than with plain rounding.";
  std::ranges::stable_sort(outcomes, {}, &Outcome::ratio);
  outcomes.resize(std::min(outcomes.size(), kNamed));
  std::vector<std::string> named;
  named.reserve(outcomes.size());
  for (const Outcome& outcome : outcomes) {
    named.push_back(fmt::format("{} ({})", outcome.layer->name(), Times(outcome.ratio)));
  }
  return fmt::format("Most was gained in {}, as factors on plain rounding's output error.",
                     fmt::join(named, ", "));
}

std::string LossesCounted(const std::vector<Outcome>& outcomes) {
  const auto worse =
      std::ranges::count_if(outcomes, [](const Outcome& o) { return o.ratio > 1 + kNoDifference; });
  if (worse == 0) return {};
  return fmt::format("{} of {} layers have a larger error than with plain rounding.", worse,
                     outcomes.size());
}

std::string GainByKind(const LayerGrid& grid) {
  std::vector<std::pair<double, std::string>> kinds;
  for (std::size_t kind = 0; kind < grid.kinds().size(); ++kind) {
    std::vector<double> ratios;
    for (const LayerGrid::Row& row : grid.rows()) ratios.push_back(ErrorRatio(row.cells[kind]));
    const double mean = GeometricMean(ratios);
    if (!std::isnan(mean)) kinds.emplace_back(mean, grid.kinds()[kind]);
  }
  if (kinds.size() < 2) return {};
  const auto [best, worst] = std::ranges::minmax(kinds);
  if (worst.first - best.first < kNoDifference) return {};
  return fmt::format(
      "By kind of layer, the error is least for {} ({} in the mean) and greatest for {} ({}).",
      best.second, Times(best.first), worst.second, Times(worst.first));
}

std::string Correlation(const std::vector<Outcome>& outcomes) {
  std::vector<double> octaves;
  std::vector<double> gains;
  for (const Outcome& outcome : outcomes) {
    if (std::isnan(outcome.octaves) || std::isnan(outcome.ratio)) continue;
    octaves.push_back(outcome.octaves);
    gains.push_back(-outcome.ratio);
  }
  if (octaves.size() < kFewestForRanks) return {};
  const double correlation = RankCorrelation(octaves, gains);
  if (std::isnan(correlation)) return {};
  const std::string_view reading =
      std::abs(correlation) < kWeakCorrelation
          ? "How far a layer's scales travelled says little about what it gained"
      : correlation > 0 ? "Layers whose scales travelled further gained more"
                        : "Layers whose scales travelled further gained less";
  return fmt::format("{}: rank correlation {} over {} layers.", reading, Fixed(correlation, 2),
                     octaves.size());
}

std::string Reading(const Report& report, const LayerGrid& grid,
                    const std::vector<Outcome>& outcomes) {
  std::vector<std::string> sentences = {
      report.scale_groups().empty()
          ? "This run has no transformation: what differs from plain rounding is due to the rest "
            "of the recipe."
          : FurthestScales(report),
      GreatestGains(outcomes), LossesCounted(outcomes), GainByKind(grid), Correlation(outcomes)};
  std::erase(sentences, "");
  std::string html = "<ul class=\"reading\">\n";
  for (const std::string& sentence : sentences) {
    html += fmt::format("<li>{}</li>\n", Escape(sentence));
  }
  return html + "</ul>\n";
}

std::string TwoDecimals(double value) { return Fixed(value, 2); }

std::string Maps(const Report& report, const LayerGrid& grid) {
  std::string html =
      Figure{.title = "What was gained.",
             .caption =
                 "Output error over that of plain rounding: below 1 the recipe helps. It "
                 "holds all that the recipe does, clipping and rounding too.",
             .body_html = HeatMap(
                 grid, {.caption = "Output error over plain rounding's, by block and kind of layer",
                        .steps = RatioSteps(),
                        .value = [](const LayerGrid::Cell& cell) { return ErrorRatio(cell); },
                        .text = TwoDecimals,
                        .mean = GeometricMean}),
             .table_html = ""}
          .Html();
  if (report.scale_groups().empty()) return html;
  html +=
      Figure{.title = "How far the scales travelled.",
             .caption =
                 "Octaves between the smallest and the largest scale of a layer's "
                 "inputs: log₂(max / min). Layers with the same inputs share a cell.",
             .body_html = HeatMap(
                 grid, {.caption = "Spread of the scales in octaves, by block and kind of layer",
                        .steps = OctaveSteps(),
                        .value = [](const LayerGrid::Cell& cell) { return Octaves(cell); },
                        .text = TwoDecimals,
                        .mean = Mean,
                        .joins_shared_groups = true}),
             .table_html = ""}
          .Html();
  return fmt::format("<div class=\"pair\">\n{}</div>\n", html);
}

Table OutcomeTable(const std::vector<Outcome>& outcomes) {
  Table table("Spread of the input scales and output error, by layer",
              {{"Layer", Table::Align::kText}, {"Octaves"}, {"Error / plain rounding's"}});
  for (const Outcome& outcome : outcomes) {
    table.AddRow({outcome.layer->name(),
                  std::isnan(outcome.octaves) ? "–" : Fixed(outcome.octaves, 3),
                  std::isnan(outcome.ratio) ? "–" : Fixed(outcome.ratio, 4)});
  }
  return table;
}

// One panel: the layers of a kind before all others.
std::string KindPanel(const LayerGrid& grid, std::size_t kind, const std::vector<Point>& all,
                      const Axis& octaves, const Axis& ratios) {
  XyPlot plot({.id = fmt::format("kind-{}", kind),
               .title = fmt::format("Gain against spread of {}", grid.kinds()[kind]),
               .description = "Across: octaves between the smallest and the largest input scale. "
                              "Upwards: output error over that of plain rounding. Grey: all "
                              "other layers.",
               .height = 120,
               .left = 36,
               .right = 10,
               .x_ticks = 4,
               .y_ticks = 4},
              octaves, ratios);
  plot.AddLevel(1, "plain", "");
  plot.AddCloud(all, "muted");
  for (const LayerGrid::Row& row : grid.rows()) {
    const Point point{Octaves(row.cells[kind]), ErrorRatio(row.cells[kind])};
    plot.AddDot(
        point, "result",
        fmt::format("block {}: {} octaves, error {}", row.name, Fixed(point.x, 2), Times(point.y)));
  }
  return fmt::format("<div class=\"panel\"><h4 title=\"{}\">{}</h4>{}</div>\n",
                     Escape(grid.kinds()[kind]), Escape(grid.names()[kind]), plot.Svg());
}

std::string KindPanels(const LayerGrid& grid, const std::vector<Outcome>& outcomes) {
  std::vector<Point> all;
  std::vector<double> octaves = {0};
  std::vector<double> ratios = {1};
  for (const LayerGrid::Row& row : grid.rows()) {
    for (const LayerGrid::Cell& cell : row.cells) {
      const Point point{Octaves(cell), ErrorRatio(cell)};
      if (std::isnan(point.x) || std::isnan(point.y)) continue;
      all.push_back(point);
      octaves.push_back(point.x);
      ratios.push_back(point.y);
    }
  }
  if (all.empty()) return {};
  std::string panels;
  for (std::size_t kind = 0; kind < grid.kinds().size(); ++kind) {
    panels += KindPanel(grid, kind, all, Axis::Linear(octaves), Axis::Logarithmic(ratios));
  }
  const LegendEntry legend[] = {{Key::kDot, "result", "layers of this kind"},
                                {Key::kDot, "muted", "all others"}};
  return Figure{.title = "Does a long way pay?",
                .caption =
                    "Across: how far the scales travelled, in octaves. Upwards: output "
                    "error over plain rounding's (the dashed line).",
                .body_html = Legend(legend) + Panels(panels),
                .table_html = OutcomeTable(outcomes).Html()}
      .Html();
}

}  // namespace

std::string TransformSection(const Report& report, const LayerGrid& grid) {
  if (grid.empty()) return {};
  const std::vector<Outcome> outcomes = OutcomesOf(report);
  return Section("transform", "Which layers need the transformation, and why",
                 Reading(report, grid, outcomes) + Maps(report, grid) + KindPanels(grid, outcomes));
}

}  // namespace teq::report
