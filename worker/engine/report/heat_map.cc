#include "worker/engine/report/heat_map.h"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "fmt/format.h"
#include "worker/engine/report/html.h"

namespace teq::report {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr std::array<HeatStep, 9> kRatioSteps = {{{0.5, "better4", "< 0.50"},
                                                  {0.7, "better3", "< 0.70"},
                                                  {0.85, "better2", "< 0.85"},
                                                  {0.95, "better1", "< 0.95"},
                                                  {1.05, "same", "≈ 1"},
                                                  {1.18, "worse1", "> 1.05"},
                                                  {1.43, "worse2", "> 1.18"},
                                                  {2, "worse3", "> 1.43"},
                                                  {kInfinity, "worse4", "> 2.00"}}};
constexpr std::array<HeatStep, 6> kOctaveSteps = {{{0.25, "level0", "< ¼"},
                                                   {0.5, "level1", "¼–½"},
                                                   {1, "level2", "½–1"},
                                                   {2, "level3", "1–2"},
                                                   {4, "level4", "2–4"},
                                                   {kInfinity, "level5", "> 4"}}};
constexpr std::array<HeatStep, 6> kShareSteps = {{{0.001, "level0", "< 0.1 %"},
                                                  {0.02, "level1", "0.1–2 %"},
                                                  {0.1, "level2", "2–10 %"},
                                                  {0.25, "level3", "10–25 %"},
                                                  {0.5, "level4", "25–50 %"},
                                                  {kInfinity, "level5", "> 50 %"}}};
constexpr std::array<HeatStep, 4> kBitSteps = {{{2.5, "level1", "2 bits"},
                                                {3.5, "level2", "3"},
                                                {6, "level3", "4"},
                                                {kInfinity, "level5", "8"}}};

std::string LayerNames(const LayerGrid::Cell& cell) {
  if (cell.layers.empty()) return "no layer";
  const std::string& first = cell.layers.front()->name();
  if (cell.layers.size() == 1) return first;
  return fmt::format("{} and {} more", first, cell.layers.size() - 1);
}

bool SharesGroups(const std::vector<LayerGrid::Cell>& cells, std::size_t kind) {
  return kind > 0 && !cells[kind].groups.empty() && cells[kind].groups == cells[kind - 1].groups;
}

// One row of the map, being written.
class RowWriter {
 public:
  explicit RowWriter(const HeatQuantity& quantity) : quantity_(quantity) {}

  void Add(double value, std::string_view hint) {
    Flush();
    value_ = value;
    hint_ = hint;
    span_ = 1;
  }
  void Widen() { ++span_; }

  std::string Html(std::string_view name) {
    Flush();
    return fmt::format("<tr><th scope=\"row\">{}</th>{}</tr>\n", Escape(name), cells_);
  }

 private:
  void Flush() {
    if (span_ == 0) return;
    const std::string span = span_ > 1 ? fmt::format(" colspan=\"{}\"", span_) : "";
    cells_ +=
        fmt::format("<td class=\"{}\"{} title=\"{}\">{}</td>", StyleOf(value_, quantity_.steps),
                    span, Escape(hint_), std::isnan(value_) ? "–" : Escape(quantity_.text(value_)));
    span_ = 0;
  }

  const HeatQuantity& quantity_;
  double value_ = 0;
  std::string hint_;
  int span_ = 0;
  std::string cells_;
};

std::string Heading(const LayerGrid& grid) {
  std::string html = "<thead><tr><th scope=\"col\">block</th>";
  for (std::size_t kind = 0; kind < grid.kinds().size(); ++kind) {
    html += fmt::format("<th scope=\"col\" title=\"{}\"><span>{}</span></th>",
                        Escape(grid.kinds()[kind]), Escape(grid.names()[kind]));
  }
  return html + "<th scope=\"col\" class=\"margin\"><span>mean</span></th></tr></thead>\n";
}

}  // namespace

std::span<const HeatStep> RatioSteps() { return kRatioSteps; }
std::span<const HeatStep> OctaveSteps() { return kOctaveSteps; }
std::span<const HeatStep> ShareSteps() { return kShareSteps; }
std::span<const HeatStep> BitSteps() { return kBitSteps; }

std::string StepsLegend(std::span<const HeatStep> steps) {
  std::vector<LegendEntry> entries;
  for (const HeatStep& step : steps) {
    entries.push_back({LegendEntry::Key::kTile, std::string(step.style), std::string(step.text)});
  }
  return Legend(entries);
}

std::string_view StyleOf(double value, std::span<const HeatStep> steps) {
  for (const HeatStep& step : steps) {
    if (value < step.below) return step.style;
  }
  return std::isnan(value) ? "none" : steps.back().style;
}

std::string HeatMap(const LayerGrid& grid, const HeatQuantity& quantity) {
  std::string body;
  std::vector<std::vector<double>> by_kind(grid.kinds().size());
  std::vector<double> all;
  for (const LayerGrid::Row& row : grid.rows()) {
    RowWriter writer(quantity);
    std::vector<double> values;
    for (std::size_t kind = 0; kind < row.cells.size(); ++kind) {
      const double value = quantity.value(row.cells[kind]);
      by_kind[kind].push_back(value);
      if (quantity.joins_shared_groups && SharesGroups(row.cells, kind)) {
        writer.Widen();
        continue;
      }
      writer.Add(value, LayerNames(row.cells[kind]));
      values.push_back(value);
    }
    writer.Add(quantity.mean(values), "mean of the block");
    body += writer.Html(row.name);
    all.insert(all.end(), values.begin(), values.end());
  }
  RowWriter means(quantity);
  for (const std::vector<double>& values : by_kind) {
    means.Add(quantity.mean(values), "mean over the blocks");
  }
  means.Add(quantity.mean(all), "mean of all");
  return fmt::format(
      "<div class=\"wide\"><table class=\"heat\"><caption>{}</caption>\n{}<tbody>\n{}</tbody>\n"
      "<tfoot>{}</tfoot></table></div>\n{}",
      Escape(quantity.caption), Heading(grid), body, means.Html("mean"),
      StepsLegend(quantity.steps));
}

}  // namespace teq::report
