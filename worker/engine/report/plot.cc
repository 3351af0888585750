#include "worker/engine/report/plot.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "fmt/format.h"
#include "worker/engine/report/html.h"

namespace teq::report {
namespace {

// The square that lines are drawn in before it is stretched.
constexpr double kUnit = 1000;
constexpr int kBelow = 24;  // pixels for the labels of the horizontal axis
// Pixels of one character of a label, and what is left free beside it.
constexpr double kCharacterWidth = 6.8;
constexpr int kMargin = 12;
// How far outside of its frame a mark may stand, as a share of it.
constexpr double kFarOutside = 0.05;

std::optional<double> Place(const Axis& axis, double value) {
  const std::optional<double> position = axis.Position(value);
  if (!position) return std::nullopt;
  return std::clamp(*position, -kFarOutside, 1 + kFarOutside);
}

std::optional<double> Across(const Axis& axis, double value) {
  const std::optional<double> place = Place(axis, value);
  return place ? std::optional(100 * *place) : std::nullopt;
}

// Upwards is towards 0.
std::optional<double> Down(const Axis& axis, double value) {
  const std::optional<double> place = Place(axis, value);
  return place ? std::optional(100 * (1 - *place)) : std::nullopt;
}

std::string Hint(std::string_view text) {
  return text.empty() ? std::string() : fmt::format("<title>{}</title>", Escape(text));
}

std::string Opening(const Drawing& drawing, int height) {
  return fmt::format(
      "<svg class=\"plot\" role=\"img\" aria-labelledby=\"{0}-title {0}-desc\" "
      "style=\"--left:{1}px;--right:{2}px;height:{3}px;margin-bottom:{4}px\">"
      "<title id=\"{0}-title\">{5}</title><desc id=\"{0}-desc\">{6}</desc>\n",
      drawing.id, drawing.left, drawing.right, height, kBelow, Escape(drawing.title),
      Escape(drawing.description));
}

std::string Across(const std::vector<Axis::Tick>& ticks) {
  std::string svg;
  for (const Axis::Tick& tick : ticks) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.2f}%\" x2=\"{0:.2f}%\" y1=\"0\" y2=\"100%\"/>"
        "<text class=\"tick\" x=\"{0:.2f}%\" y=\"100%\" dy=\"16\">{1}</text>\n",
        100 * tick.position, tick.label);
  }
  return svg;
}

std::string Upwards(const std::vector<Axis::Tick>& ticks) {
  std::string svg;
  for (const Axis::Tick& tick : ticks) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{0:.2f}%\" y2=\"{0:.2f}%\"/>"
        "<text class=\"tick side\" x=\"-8\" y=\"{0:.2f}%\" dy=\"4\">{1}</text>\n",
        100 * (1 - tick.position), tick.label);
  }
  return svg;
}

}  // namespace

std::vector<Point> Thinned(std::span<const Point> points, std::size_t limit) {
  const std::size_t stretches = std::max<std::size_t>(1, limit / 2);
  if (points.size() <= limit || points.size() < 3) return {points.begin(), points.end()};
  std::vector<Point> kept = {points.front()};
  const std::span<const Point> inner = points.subspan(1, points.size() - 2);
  for (std::size_t i = 0; i < stretches; ++i) {
    const std::size_t begin = i * inner.size() / stretches;
    const std::size_t end = (i + 1) * inner.size() / stretches;
    std::optional<std::size_t> low;
    std::optional<std::size_t> high;
    for (std::size_t j = begin; j < end; ++j) {
      if (!std::isfinite(inner[j].y)) continue;
      if (!low || inner[j].y < inner[*low].y) low = j;
      if (!high || inner[j].y > inner[*high].y) high = j;
    }
    if (!low) continue;
    kept.push_back(inner[std::min(*low, *high)]);
    if (*low != *high) kept.push_back(inner[std::max(*low, *high)]);
  }
  kept.push_back(points.back());
  return kept;
}

void XyPlot::AddLine(std::span<const Point> points, std::string_view style) {
  std::string path;
  bool connected = false;
  for (const Point& point : points) {
    const std::optional<double> x = Place(x_, point.x);
    const std::optional<double> y = Place(y_, point.y);
    if (x && y) {
      path += fmt::format("{}{:.1f} {:.1f}", connected ? 'L' : 'M', *x * kUnit, (1 - *y) * kUnit);
    }
    connected = x && y;
  }
  if (path.empty()) return;
  paths_ += fmt::format("<path class=\"line {}\" d=\"{}\"/>\n", style, path);
}

void XyPlot::AddDot(Point point, std::string_view style, std::string_view hint) {
  const std::optional<double> x = Across(x_, point.x);
  const std::optional<double> y = Down(y_, point.y);
  if (!x || !y) return;
  marks_ +=
      fmt::format("<circle class=\"dot {}\" cx=\"{:.2f}%\" cy=\"{:.2f}%\" r=\"4\">{}</circle>\n",
                  style, *x, *y, Hint(hint));
}

void XyPlot::AddCloud(std::span<const Point> points, std::string_view style) {
  std::string path;
  for (const Point& point : points) {
    const std::optional<double> x = Place(x_, point.x);
    const std::optional<double> y = Place(y_, point.y);
    // A line of no length with round ends is a dot.
    if (x && y) path += fmt::format("M{:.0f} {:.0f}h0", *x * kUnit, (1 - *y) * kUnit);
  }
  if (path.empty()) return;
  paths_ += fmt::format("<path class=\"cloud {}\" d=\"{}\"/>\n", style, path);
}

void XyPlot::AddLevel(double y, std::string_view style, std::string_view name) {
  const std::optional<double> down = Down(y_, y);
  if (!down) return;
  marks_ +=
      fmt::format("<line class=\"line {0}\" x1=\"0\" x2=\"100%\" y1=\"{1:.2f}%\" y2=\"{1:.2f}%\"/>",
                  style, *down);
  if (!name.empty()) {
    marks_ += fmt::format("<text class=\"name {}\" x=\"100%\" y=\"{:.2f}%\" dy=\"-5\">{}</text>",
                          style, *down, Escape(name));
  }
  marks_ += "\n";
}

std::string XyPlot::Svg() const {
  return fmt::format(
      "{}{}{}<svg viewBox=\"0 0 {:.0f} {:.0f}\" preserveAspectRatio=\"none\" "
      "class=\"stretched\">\n{}</svg>\n{}</svg>\n",
      Opening(drawing_, drawing_.height), Across(x_.Ticks(drawing_.x_ticks)),
      Upwards(y_.Ticks(drawing_.y_ticks)), kUnit, kUnit, paths_, marks_);
}

void RowPlot::BeginRow(std::string_view name, std::string_view hint, std::string_view value) {
  ++rows_;
  longest_name_ = std::max(longest_name_, CharacterCount(name));
  longest_value_ = std::max(longest_value_, CharacterCount(value));
  const double y = Middle();
  marks_ += fmt::format("<text class=\"row\" x=\"-8\" y=\"{:.0f}\" dy=\"4\">{}{}</text>", y,
                        Escape(name), Hint(hint));
  if (!value.empty()) {
    marks_ +=
        fmt::format("<text class=\"value\" x=\"100%\" dx=\"8\" y=\"{:.0f}\" dy=\"4\">{}</text>", y,
                    Escape(value));
  }
  marks_ += "\n";
}

void RowPlot::AddSpan(double from, double to, std::string_view style, std::string_view hint) {
  const std::optional<double> begin = Across(x_, from);
  const std::optional<double> end = Across(x_, to);
  if (!begin || !end) return;
  marks_ += fmt::format(
      "<line class=\"span {0}\" x1=\"{1:.2f}%\" x2=\"{2:.2f}%\" y1=\"{3:.0f}\" y2=\"{3:.0f}\">{4}"
      "</line>\n",
      style, *begin, *end, Middle(), Hint(hint));
}

void RowPlot::AddDot(double x, std::string_view style, std::string_view hint) {
  const std::optional<double> across = Across(x_, x);
  if (!across) return;
  marks_ +=
      fmt::format("<circle class=\"dot {}\" cx=\"{:.2f}%\" cy=\"{:.0f}\" r=\"4\">{}</circle>\n",
                  style, *across, Middle(), Hint(hint));
}

void RowPlot::AddStroke(double x, std::string_view style, std::string_view hint) {
  const std::optional<double> across = Across(x_, x);
  if (!across) return;
  constexpr double kHalf = 6;
  marks_ += fmt::format(
      "<line class=\"stroke {0}\" x1=\"{1:.2f}%\" x2=\"{1:.2f}%\" y1=\"{2:.0f}\" y2=\"{3:.0f}\">{4}"
      "</line>\n",
      style, *across, Middle() - kHalf, Middle() + kHalf, Hint(hint));
}

void RowPlot::AddCell(double from, double to, std::string_view style, std::string_view hint) {
  const std::optional<double> begin = Across(x_, from);
  const std::optional<double> end = Across(x_, to);
  if (!begin || !end || *end <= *begin) return;
  marks_ += fmt::format(
      "<rect class=\"{}\" x=\"{:.2f}%\" width=\"{:.2f}%\" y=\"{:.0f}\" height=\"{}\">{}</rect>\n",
      style, *begin, *end - *begin, Middle() - kRowHeight / 2.0 + 2, kRowHeight - 4, Hint(hint));
}

void RowPlot::AddRule(double x, std::string_view style) {
  const std::optional<double> across = Across(x_, x);
  if (!across) return;
  rules_ += fmt::format(
      "<line class=\"line {0}\" x1=\"{1:.2f}%\" x2=\"{1:.2f}%\" y1=\"0\" y2=\"100%\"/>\n", style,
      *across);
}

std::string RowPlot::Svg() const {
  Drawing drawing = drawing_;
  drawing.left = kMargin + static_cast<int>(kCharacterWidth * longest_name_);
  drawing.right = kMargin + static_cast<int>(kCharacterWidth * longest_value_);
  return fmt::format("{}{}{}{}</svg>\n", Opening(drawing, rows_ * kRowHeight),
                     Across(x_.Ticks(drawing_.x_ticks)), rules_, marks_);
}

}  // namespace teq::report
