#include <cmath>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/json.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using teq::v1::Recipe;
using teq::v1::Report;

std::string GridText(const teq::v1::Weights& weights) {
  std::string text = weights.has_target_bits()
                         ? fmt::format("{} bits on average", Brief(weights.target_bits()))
                         : fmt::format("{} bits", weights.bits());
  text += weights.group_size() < 0 ? std::string(", whole rows")
                                   : fmt::format(", groups of {}", weights.group_size());
  return text + (weights.symmetric() ? ", symmetric" : ", asymmetric");
}

std::string TransformText(const teq::v1::Transform& transform) {
  switch (transform.kind_case()) {
    case teq::v1::Transform::kTeq:
      return fmt::format(
          "TEQ by {}, {} steps",
          ShortEnumName(teq::v1::Objective_descriptor(), transform.teq().objective()),
          Count(transform.teq().steps()));
    case teq::v1::Transform::kAwq:
      return "AWQ's scales";
    case teq::v1::Transform::KIND_NOT_SET:
      break;
  }
  return "no transformation";
}

std::string ClippingText(const teq::v1::Clipping& clipping) {
  switch (clipping.kind_case()) {
    case teq::v1::Clipping::kLearned:
      return "learned clipping";
    case teq::v1::Clipping::kSearch:
      return "searched clipping";
    case teq::v1::Clipping::KIND_NOT_SET:
      break;
  }
  return {};
}

std::string RoundingText(const teq::v1::Rounding& rounding) {
  switch (rounding.kind_case()) {
    case teq::v1::Rounding::kGptq:
      return "rounded by GPTQ";
    case teq::v1::Rounding::kLearned:
      return "learned rounding";
    case teq::v1::Rounding::kNearest:
    case teq::v1::Rounding::KIND_NOT_SET:
      break;
  }
  return "rounded to nearest";
}

std::string RecipeText(const Recipe& recipe) {
  std::vector<std::string> parts = {GridText(recipe.weights()), TransformText(recipe.transform()),
                                    ClippingText(recipe.clipping()),
                                    RoundingText(recipe.rounding())};
  std::erase(parts, "");
  return fmt::format("{}", fmt::join(parts, " · "));
}

std::string Result(const teq::v1::Perplexity& figures) {
  const double opened = figures.round_to_nearest() - figures.full_precision();
  const double closed = (figures.round_to_nearest() - figures.quantized()) / opened;
  std::string text =
      fmt::format("Perplexity on {}: {}, against {} in float and {} with plain rounding.",
                  LastPart(figures.dataset()), Fixed(figures.quantized(), 2),
                  Fixed(figures.full_precision(), 2), Fixed(figures.round_to_nearest(), 2));
  if (opened > 0 && std::isfinite(closed)) {
    text += fmt::format(" The recipe {} (± {}, one standard error).",
                        closed >= 0 ? fmt::format("closes {} of that gap", Percent(closed, 0))
                                    : fmt::format("widens that gap by {}", Percent(-closed, 0)),
                        Percent(figures.round_to_nearest_difference_standard_error() / opened, 0));
  }
  return fmt::format("<p class=\"lede\">{}</p>\n", Escape(text));
}

std::string Notes(const Report& report) {
  if (report.notes().empty()) return {};
  std::string html = "<aside aria-label=\"Notes\"><h2>Notes</h2>\n<ul>\n";
  for (const std::string& note : report.notes()) {
    html += fmt::format("<li>{}</li>\n", Escape(note));
  }
  return html + "</ul></aside>\n";
}

}  // namespace

std::string HeadSection(const Report& report) {
  const std::string model = LastPart(report.inputs().model_uri());
  std::string html = fmt::format(
      "<header>\n<p class=\"label\">Quantization report{}</p>\n"
      "<h1>{}</h1>\n",
      report.job().empty() ? "" : " · " + Escape(report.job()),
      model.empty() ? "A model" : Escape(model));
  if (report.has_recipe()) {
    html += fmt::format("<p class=\"recipe\">{}</p>\n", Escape(RecipeText(report.recipe())));
  }
  for (const teq::v1::Perplexity& figures : report.perplexity()) html += Result(figures);
  return html + Notes(report) + "</header>\n";
}

}  // namespace teq::report
