#include "worker/engine/report/page.h"

#include <string_view>
#include <utility>

#include "fmt/format.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/page_style.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

std::string Title(const teq::v1::Report& report) {
  const std::string model = LastPart(report.inputs().model_uri());
  return model.empty() ? std::string("Quantization report")
                       : fmt::format("{} · quantization report", model);
}

// Links to the sections that are there.
std::string Navigation(std::string_view sections_html) {
  static constexpr std::pair<std::string_view, std::string_view> kLinks[] = {
      {"quality", "Quality"},   {"transform", "Which layers, and why"},
      {"errors", "Errors"},     {"scales", "Scales"},
      {"training", "Training"}, {"codes", "Bits and codes"},
      {"recipe", "Recipe"},     {"run", "Run"}};
  std::string html;
  for (const auto& [id, text] : kLinks) {
    if (sections_html.find(fmt::format("<section id=\"{}\">", id)) == std::string_view::npos) {
      continue;
    }
    html += fmt::format("<a href=\"#{}\">{}</a>\n", id, Escape(text));
  }
  return html.empty() ? html : fmt::format("<nav aria-label=\"Sections\">\n{}</nav>\n", html);
}

}  // namespace

std::string ReportPage(const teq::v1::Report& report) {
  const LayerGrid grid(report);
  const std::string sections = QualitySection(report) + TransformSection(report, grid) +
                               ErrorSection(grid) + ScaleSection(report) + TrainingSection(report) +
                               CodeSection(grid) + RecipeSection(report) + RunSection(report);
  return fmt::format(R"(<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>{}</title>
<style>{}</style>
</head>
<body>
<main>
{}{}{}</main>
</body>
</html>
)",
                     Escape(Title(report)), kPageStyle, HeadSection(report), Navigation(sections),
                     sections);
}

}  // namespace teq::report
