#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/engine/report/axis.h"

// Drawings as inline SVG without a fixed width: places across are percentages, so that a drawing
// fills its column on a telephone and on paper while its text keeps its size. A `style` is a class
// of the style sheet; a `hint` is plain text, shown on hovering.
namespace teq::report {

struct Point {
  double x = 0;
  double y = 0;
};

/// At most about `limit` points that draw the same line: the first, the last, and of each stretch
/// the lowest and the highest.
[[nodiscard]] std::vector<Point> Thinned(std::span<const Point> points, std::size_t limit);

/// What every drawing has.
struct Drawing {
  std::string id;           // unique in the page
  std::string title;        // for those who cannot see it, as is
  std::string description;  // what can be seen
  int height = 240;         // pixels
  int left = 56;            // pixels for the vertical axis's labels
  int right = 14;
  int x_ticks = 6;
  int y_ticks = 5;
};

/// Values against values.
class XyPlot {
 public:
  XyPlot(Drawing drawing, const Axis& x, const Axis& y)
      : drawing_(std::move(drawing)), x_(x), y_(y) {}

  void AddLine(std::span<const Point> points, std::string_view style);
  void AddDot(Point point, std::string_view style, std::string_view hint);
  /// Many dots without hints, in few bytes.
  void AddCloud(std::span<const Point> points, std::string_view style);
  /// A horizontal line across, named at its right end.
  void AddLevel(double y, std::string_view style, std::string_view name);

  [[nodiscard]] std::string Svg() const;

 private:
  Drawing drawing_;
  Axis x_;
  Axis y_;
  std::string paths_;  // in a square of kUnit
  std::string marks_;  // in percent
};

/// Named rows above a common horizontal axis. Its height and its sides are what the rows need.
class RowPlot {
 public:
  static constexpr int kRowHeight = 18;

  RowPlot(Drawing drawing, const Axis& x) : drawing_(std::move(drawing)), x_(x) {}

  /// Later marks stand in this row. `value` is written at its right end.
  void BeginRow(std::string_view name, std::string_view hint, std::string_view value);
  void AddSpan(double from, double to, std::string_view style, std::string_view hint);
  void AddDot(double x, std::string_view style, std::string_view hint);
  /// A short vertical stroke.
  void AddStroke(double x, std::string_view style, std::string_view hint);
  /// A filled part of the row's height.
  void AddCell(double from, double to, std::string_view style, std::string_view hint);
  /// A vertical line through all rows.
  void AddRule(double x, std::string_view style);

  [[nodiscard]] std::string Svg() const;

 private:
  [[nodiscard]] double Middle() const { return (rows_ - 0.5) * kRowHeight; }

  Drawing drawing_;
  Axis x_;
  int rows_ = 0;
  std::size_t longest_name_ = 0;
  std::size_t longest_value_ = 0;
  std::string rules_;
  std::string marks_;
};

}  // namespace teq::report
