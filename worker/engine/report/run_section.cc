#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/json.h"
#include "teq/v1/job.pb.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using teq::v1::Report;

// The stages in the order in which they run; what is no stage comes last.
std::vector<std::pair<std::string, double>> Timings(const Report& report) {
  std::vector<std::pair<std::string, double>> timings(report.timing_seconds().begin(),
                                                      report.timing_seconds().end());
  const auto place = [](const std::pair<std::string, double>& timing) {
    teq::v1::Stage stage = teq::v1::STAGE_UNSPECIFIED;
    const bool known = teq::v1::Stage_Parse("STAGE_" + timing.first, &stage);
    return std::pair(known ? static_cast<int>(stage) : teq::v1::Stage_ARRAYSIZE, timing.first);
  };
  std::ranges::sort(timings, {}, place);
  return timings;
}

std::string TimingFigure(const Report& report) {
  if (report.timing_seconds().empty()) return {};
  const std::vector<std::pair<std::string, double>> timings = Timings(report);
  std::vector<double> seconds = {0};
  Table table("Seconds, by stage", {{"Stage", Table::Align::kText}, {"Seconds"}});
  double total = 0;
  for (const auto& [stage, value] : timings) {
    seconds.push_back(value);
    total += value;
    table.AddRow({stage, Fixed(value, 3)});
  }
  constexpr std::size_t kNameLength = 15;
  RowPlot plot({.id = "timing",
                .title = "Seconds by stage",
                .description = fmt::format("One bar for each stage; {} s in all.", Fixed(total, 1)),
                .left = 118,
                .right = 62},
               Axis::Linear(seconds, /*padding=*/0));
  for (const auto& [stage, value] : timings) {
    const std::string text = fmt::format("{} s", Fixed(value, 2));
    plot.BeginRow(Shortened(stage, kNameLength), stage, text);
    plot.AddCell(0, value, "bar", fmt::format("{}: {}", stage, text));
  }
  return Figure{.title = fmt::format("{} s in all.", Fixed(total, 1)),
                .caption = "Wall-clock seconds by stage, without PUBLISH.",
                .body_html = plot.Svg(),
                .table_html = table.Html()}
      .Html();
}

// Names and values; what is empty is left out.
std::string Facts(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string html;
  for (const auto& [name, value] : facts) {
    if (value.empty()) continue;
    html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", Escape(name), Escape(value));
  }
  return html.empty() ? html : fmt::format("<dl class=\"facts\">\n{}</dl>\n", html);
}

std::string CountOrNothing(std::int64_t value) { return value == 0 ? "" : Count(value); }

std::string Inputs(const Report& report) {
  const teq::v1::Inputs& inputs = report.inputs();
  std::vector<std::pair<std::string, std::string>> facts = {
      {"Job", report.job()},
      {"Model", inputs.model_uri()},
      {"Model's sha256", inputs.model_sha256()},
      {"Calibration", inputs.calibration_uri()},
      {"Its sha256", inputs.calibration_sha256()},
      {"Windows", CountOrNothing(inputs.calibration_samples())},
      {"Tokens in each", CountOrNothing(inputs.calibration_sequence_length())}};
  for (int i = 0; i < inputs.evaluation_uris_size(); ++i) {
    facts.emplace_back("Evaluation", inputs.evaluation_uris(i));
    if (i < inputs.evaluation_sha256_size()) {
      facts.emplace_back("Its sha256", inputs.evaluation_sha256(i));
    }
  }
  for (int i = 0; i < inputs.task_uris_size(); ++i) {
    facts.emplace_back("Task", inputs.task_uris(i));
    if (i < inputs.task_sha256_size()) facts.emplace_back("Its sha256", inputs.task_sha256(i));
  }
  const teq::v1::PeakMemory& memory = report.peak_memory_bytes();
  const std::vector<std::pair<std::string, std::string>> rest = {
      {"Recipe's sha256", inputs.recipe_sha256()},
      {"Seed", report.has_inputs() ? fmt::format("{}", inputs.seed()) : ""},
      {"Engine", inputs.engine_version()},
      {"Device", inputs.device()},
      {"Instruction set", inputs.instruction_set()},
      {"Matrix products", inputs.matrix_products()},
      {"Threads", CountOrNothing(inputs.threads())},
      {"Perplexities in", inputs.evaluation_dtype()},
      {"Peak memory, host", memory.host() > 0 ? Bytes(memory.host()) : ""},
      {"Peak memory, device", memory.device() > 0 ? Bytes(memory.device()) : ""}};
  facts.insert(facts.end(), rest.begin(), rest.end());
  const std::string html = Facts(facts);
  return html.empty() ? html : "<h3>Inputs</h3>\n" + html;
}

std::string Artifacts(const Report& report) {
  if (report.artifacts().empty()) return {};
  std::vector<Table::Column> columns = {
      {"Format", Table::Align::kText}, {"Path", Table::Align::kText}, {"Bytes"}};
  for (const teq::v1::Perplexity& figures : report.perplexity()) {
    columns.push_back({"Perplexity on " + LastPart(figures.dataset())});
  }
  columns.push_back({"Exact", Table::Align::kText});
  columns.push_back({"sha256", Table::Align::kText});
  Table table("Published directories; exact ones hold what was rounded, bit for bit",
              std::move(columns));
  for (const teq::v1::Artifact& artifact : report.artifacts()) {
    std::vector<std::string> cells = {artifact.format(), artifact.path(), Count(artifact.bytes())};
    for (const teq::v1::Perplexity& figures : report.perplexity()) {
      const auto own = std::ranges::find(artifact.perplexity(), figures.dataset(),
                                         &teq::v1::ArtifactPerplexity::dataset);
      cells.push_back(own == artifact.perplexity().end() ? "–" : Fixed(own->value(), 4));
    }
    cells.emplace_back(artifact.exact() ? "yes" : "no");
    cells.push_back(artifact.sha256());
    table.AddRow(std::move(cells));
  }
  return "<h3>Published</h3>\n" + table.Html();
}

}  // namespace

std::string RecipeSection(const Report& report) {
  if (!report.has_recipe()) return {};
  return Section("recipe", "Recipe",
                 fmt::format("<pre>{}</pre>\n", Escape(ToYaml(report.recipe()))));
}

std::string RunSection(const Report& report) {
  return Section("run", "The run", TimingFigure(report) + Artifacts(report) + Inputs(report));
}

}  // namespace teq::report
