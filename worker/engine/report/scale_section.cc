#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "worker/engine/report/heat_map.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using teq::v1::Report;
using teq::v1::ScaleGroupReport;

// The histograms' bins; see ScaleGroupReport.histogram.
constexpr int kBins = 16;
constexpr double kLowest = -4;
constexpr double kBinWidth = 0.5;
// The axis shows at least and at most so many octaves to both sides.
constexpr double kNarrowest = 1;
constexpr double kWidest = 8;
constexpr std::size_t kMaxRows = 400;
constexpr std::size_t kNameLength = 9;

// Groups with the same kind of producer, in the model's order.
struct Family {
  std::string kind;
  std::vector<const ScaleGroupReport*> groups;
};

std::vector<Family> FamiliesOf(const Report& report) {
  std::vector<Family> families;
  for (const ScaleGroupReport& group : report.scale_groups()) {
    const ModulePlace place = PlaceOf(group.producer());
    const std::string kind = place.block ? place.kind : "outside of blocks";
    auto family = std::ranges::find(families, kind, &Family::kind);
    if (family == families.end()) family = families.insert(family, {.kind = kind, .groups = {}});
    family->groups.push_back(&group);
  }
  return families;
}

double Reach(const Report& report) {
  double reach = kNarrowest;
  for (const ScaleGroupReport& group : report.scale_groups()) {
    for (const double scale : {group.min(), group.max()}) {
      const double octaves = std::abs(std::log2(scale));
      if (std::isfinite(octaves)) reach = std::max(reach, octaves);
    }
    for (int bin = 0; bin < std::min(kBins, group.histogram_size()); ++bin) {
      const double edge = kLowest + bin * kBinWidth;
      if (group.histogram(bin) > 0) {
        reach = std::max({reach, std::abs(edge), std::abs(edge + kBinWidth)});
      }
    }
  }
  return std::min(kWidest, std::ceil(reach / kBinWidth) * kBinWidth);
}

std::string HintOf(const ScaleGroupReport& group) {
  return fmt::format("{}: from {} over {} (median) to {}, {} octaves", group.producer(),
                     Significant(group.min()), Significant(group.median()),
                     Significant(group.max()), Fixed(Octaves(group), 2));
}

void AddHistogram(RowPlot& plot, const ScaleGroupReport& group) {
  double total = 0;
  for (const std::int64_t count : group.histogram()) total += static_cast<double>(count);
  for (int bin = 0; bin < std::min(kBins, group.histogram_size()); ++bin) {
    const std::int64_t count = group.histogram(bin);
    if (count <= 0) continue;
    const double from = kLowest + bin * kBinWidth;
    const double share = static_cast<double>(count) / total;
    plot.AddCell(from, from + kBinWidth, StyleOf(share, ShareSteps()),
                 fmt::format("{} of {} channels from {} to {} octaves", Count(count),
                             Fixed(total, 0), Brief(from), Brief(from + kBinWidth)));
  }
}

void AddGroup(RowPlot& plot, const ScaleGroupReport& group, double reach) {
  const ModulePlace place = PlaceOf(group.producer());
  const std::string hint = HintOf(group);
  plot.BeginRow(
      place.block ? fmt::format("{}", *place.block) : Shortened(group.producer(), kNameLength),
      hint, fmt::format("{}–{}", Significant(group.min(), 3), Significant(group.max(), 3)));
  AddHistogram(plot, group);
  const auto placed = [&](double scale) { return std::clamp(std::log2(scale), -reach, reach); };
  // Lines of paper below those of ink: they stand out from tiles of any darkness.
  for (const std::string_view style : {"halo", "ink"}) {
    plot.AddSpan(placed(group.min()), placed(group.max()), style, hint);
    plot.AddStroke(placed(group.min()), style, hint);
    plot.AddStroke(placed(group.max()), style, hint);
  }
  plot.AddDot(placed(group.median()), "ink small", hint);
}

std::string ConsumerNames(const ScaleGroupReport& group) {
  std::vector<std::string> kinds;
  for (const std::string& consumer : group.consumers()) {
    const std::string kind = PlaceOf(consumer).kind;
    if (std::ranges::find(kinds, kind) == kinds.end()) kinds.push_back(kind);
  }
  return fmt::format("{}", fmt::join(ShortNames(kinds), ", "));
}

std::string FamilyPanel(const Family& family, std::size_t number, double reach) {
  const double sides[] = {-reach, reach};
  RowPlot plot({.id = fmt::format("scales-{}", number),
                .title = fmt::format("Scales behind {}", family.kind),
                .description = "One row for each block: tiles, the share of channels by log2 of "
                               "their scale; line, from the smallest to the largest scale; dot, "
                               "the median; at the right, smallest and largest.",
                .left = 64,
                .right = 88,
                .x_ticks = 6},
               Axis::Linear(sides, /*padding=*/0));
  plot.AddRule(0, "float");
  for (std::size_t i = 0; i < std::min(family.groups.size(), kMaxRows); ++i) {
    AddGroup(plot, *family.groups[i], reach);
  }
  const std::string left_out =
      family.groups.size() > kMaxRows
          ? Paragraph(fmt::format("{} more in report.json", family.groups.size() - kMaxRows))
          : std::string();
  return fmt::format("<div class=\"panel\"><h4>{} → {}</h4>{}{}</div>\n", Escape(family.kind),
                     Escape(ConsumerNames(*family.groups.front())), plot.Svg(), left_out);
}

Table ScaleTable(const Report& report) {
  Table table("Scales, by group", {{"Producer", Table::Align::kText},
                                   {"Consumers", Table::Align::kText},
                                   {"Least"},
                                   {"Median"},
                                   {"Greatest"},
                                   {"Octaves"}});
  for (const ScaleGroupReport& group : report.scale_groups()) {
    table.AddRow({group.producer(), fmt::format("{}", fmt::join(group.consumers(), ", ")),
                  Significant(group.min()), Significant(group.median()), Significant(group.max()),
                  Fixed(Octaves(group), 3)});
  }
  return table;
}

}  // namespace

std::string ScaleSection(const Report& report) {
  if (report.scale_groups().empty()) return {};
  const double reach = Reach(report);
  std::string panels = "<div class=\"panels wider\">\n";
  const std::vector<Family> families = FamiliesOf(report);
  for (std::size_t i = 0; i < families.size(); ++i) panels += FamilyPanel(families[i], i, reach);
  panels += "</div>\n";
  return Section("scales", "Scales by group",
                 Figure{.title = "Where the scales ended.",
                        .caption = "Across: octaves, log₂ of the scale; 0 leaves a channel as it "
                                   "was, 1 doubles it for the consumers and halves it in the "
                                   "producer. Tiles: share of the group's channels. Line: from the "
                                   "smallest to the largest; dot: the median.",
                        .body_html = StepsLegend(ShareSteps()) + panels,
                        .table_html = ScaleTable(report).Html()}
                     .Html());
}

}  // namespace teq::report
