#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using Key = LegendEntry::Key;
using teq::v1::Perplexity;
using teq::v1::Report;

// What the recipe won back of what plain rounding loses.
struct Gap {
  double opened = 0;          // perplexity that plain rounding adds
  double closed = 0;          // share
  double standard_error = 0;  // of `closed`, taking `opened` as known
};

std::optional<Gap> GapOf(const Perplexity& figures) {
  const double opened = figures.round_to_nearest() - figures.full_precision();
  const double closed = (figures.round_to_nearest() - figures.quantized()) / opened;
  if (!(opened > 0) || !std::isfinite(opened) || !std::isfinite(closed)) return std::nullopt;
  return Gap{.opened = opened,
             .closed = closed,
             .standard_error = figures.round_to_nearest_difference_standard_error() / opened};
}

std::string PlusMinus(double error, int decimals) {
  return fmt::format("± {}", Fixed(error, decimals));
}

std::string ClosedText(const Gap& gap) {
  return fmt::format("{} ± {}", Percent(gap.closed), Percent(gap.standard_error));
}

std::string SignedPercent(double share) {
  return fmt::format("{}{}", share > 0 ? "+" : "", Percent(share, 2));
}

struct Tile {
  std::string name;
  std::string value;
  std::string detail;
  std::string style;
};

std::string TileHtml(const Tile& tile) {
  return fmt::format("<div class=\"{}\"><dt>{}</dt><dd><b>{}</b> <span>{}</span></dd></div>\n",
                     tile.style, Escape(tile.name), Escape(tile.value), Escape(tile.detail));
}

std::vector<Tile> TilesOf(const Perplexity& figures) {
  const std::optional<Gap> gap = GapOf(figures);
  const double against_plain = figures.quantized() - figures.round_to_nearest();
  return {
      {"Quantized", Fixed(figures.quantized(), 4), PlusMinus(figures.standard_error(), 4),
       "of-result"},
      {"Float", Fixed(figures.full_precision(), 4), "", "of-float"},
      {"Plain rounding", Fixed(figures.round_to_nearest(), 4), "", "of-plain"},
      {"Share of the gap closed", gap ? Percent(gap->closed) : "–",
       gap ? fmt::format("± {}, of {}", Percent(gap->standard_error), Fixed(gap->opened, 4))
           : "plain rounding opens none",
       "of-result"},
      {"Quantized − float", Signed(figures.delta(), 4),
       PlusMinus(figures.delta_standard_error(), 4), ""},
      {"Quantized − plain rounding", Signed(against_plain, 4),
       PlusMinus(figures.round_to_nearest_difference_standard_error(), 4), ""},
      {"Divergence from float", Significant(figures.kl_divergence()), "nats per token (KL)", ""},
      {"Same most likely token", Percent(figures.top1_agreement(), 2),
       fmt::format("of {}", Count(figures.tokens())), ""},
  };
}

std::string Tiles(const Perplexity& figures) {
  std::string html = fmt::format("<h3>{}</h3>\n<dl class=\"tiles\">\n", Escape(figures.dataset()));
  for (const Tile& tile : TilesOf(figures)) html += TileHtml(tile);
  return html + "</dl>\n";
}

Table PerplexityTable(const Report& report) {
  Table table("Perplexity, by evaluation text", {{"Text", Table::Align::kText},
                                                 {"Float"},
                                                 {"Plain rounding"},
                                                 {"Quantized"},
                                                 {"± s.e."},
                                                 {"− float"},
                                                 {"± s.e."},
                                                 {"− plain"},
                                                 {"± s.e."},
                                                 {"Gap closed"},
                                                 {"KL"},
                                                 {"Top 1"},
                                                 {"Tokens"}});
  for (const Perplexity& figures : report.perplexity()) {
    const std::optional<Gap> gap = GapOf(figures);
    table.AddRow({figures.dataset(), Fixed(figures.full_precision(), 4),
                  Fixed(figures.round_to_nearest(), 4), Fixed(figures.quantized(), 4),
                  Fixed(figures.standard_error(), 4), Signed(figures.delta(), 4),
                  Fixed(figures.delta_standard_error(), 4),
                  Signed(figures.quantized() - figures.round_to_nearest(), 4),
                  Fixed(figures.round_to_nearest_difference_standard_error(), 4),
                  gap ? Percent(gap->closed) : "–", Significant(figures.kl_divergence()),
                  Percent(figures.top1_agreement(), 2), Count(figures.tokens())});
  }
  return table;
}

// Where each result stands between float (0) and plain rounding (1).
std::string GapFigure(const Report& report) {
  std::vector<double> places = {0, 1};
  for (const Perplexity& figures : report.perplexity()) {
    const std::optional<Gap> gap = GapOf(figures);
    if (!gap) continue;
    places.push_back(1 - gap->closed - figures.delta_standard_error() / gap->opened);
    places.push_back(1 - gap->closed + figures.delta_standard_error() / gap->opened);
  }
  if (places.size() == 2) return {};
  constexpr std::size_t kNameLength = 20;
  RowPlot plot({.id = "gap",
                .title = "The gap between float and plain rounding",
                .description = "One row for each text: 0 is the float model's perplexity, 1 that "
                               "of plain rounding, the dot the quantized model's with one "
                               "standard error of its distance from float to both sides."},
               Axis::Linear(places));
  plot.AddRule(0, "float");
  plot.AddRule(1, "plain");
  for (const Perplexity& figures : report.perplexity()) {
    const std::optional<Gap> gap = GapOf(figures);
    if (!gap) continue;
    const double place = 1 - gap->closed;
    const double error = figures.delta_standard_error() / gap->opened;
    const std::string hint = fmt::format(
        "{}: {} of the gap closed; perplexity {} ± {} over float", figures.dataset(),
        ClosedText(*gap), Fixed(figures.delta(), 4), Fixed(figures.delta_standard_error(), 4));
    plot.BeginRow(Shortened(LastPart(figures.dataset()), kNameLength), figures.dataset(),
                  fmt::format("{} closed", Percent(gap->closed, 0)));
    plot.AddSpan(place - error, place + error, "result", hint);
    plot.AddDot(place, "result", hint);
  }
  const LegendEntry legend[] = {{Key::kLine, "float", "float = 0"},
                                {Key::kLine, "plain", "plain rounding = 1"},
                                {Key::kLine, "result", "quantized, ± 1 s.e."}};
  return Figure{.title = "How much of the gap is closed.",
                .caption = "Further left is better; left of 0 would be better than float.",
                .body_html = Legend(legend) + plot.Svg(),
                .table_html = PerplexityTable(report).Html()}
      .Html();
}

std::string Tasks(const Report& report) {
  if (report.tasks().empty()) return {};
  Table table("Accuracy by task, one standard error, differences paired by example",
              {{"Task", Table::Align::kText},
               {"Examples"},
               {"Float"},
               {"Quantized"},
               {"± s.e."},
               {"Difference"},
               {"± s.e."}});
  for (const teq::v1::TaskResult& task : report.tasks()) {
    const double difference = task.quantized_accuracy() - task.full_precision_accuracy();
    table.AddRow({task.task(), Count(task.examples()), Percent(task.full_precision_accuracy(), 2),
                  Percent(task.quantized_accuracy(), 2), Percent(task.standard_error(), 2),
                  SignedPercent(difference), Percent(task.difference_standard_error(), 2)});
  }
  return "<h3>Tasks</h3>\n" + table.Html();
}

}  // namespace

std::string QualitySection(const Report& report) {
  std::string html;
  if (!report.perplexity().empty()) {
    html += Paragraph(
        "Perplexity of the published bytes, read back. A value after ± is one standard error; "
        "those of differences are paired by window, which is why they are so much smaller than "
        "the perplexity's own.");
  }
  for (const Perplexity& figures : report.perplexity()) html += Tiles(figures);
  html += GapFigure(report);
  html += Tasks(report);
  return Section("quality", "Quality", html);
}

}  // namespace teq::report
