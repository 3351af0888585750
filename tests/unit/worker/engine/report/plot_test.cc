#include "worker/engine/report/plot.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "worker/engine/report/html.h"

namespace teq::report {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Labels(const Axis& axis, int count) {
  std::vector<std::string> labels;
  for (const Axis::Tick& tick : axis.Ticks(count)) labels.push_back(tick.label);
  return labels;
}

TEST(AxisTest, LinearTicksAreRound) {
  const double values[] = {0, 97};
  EXPECT_THAT(Labels(Axis::Linear(values, 0), 5), ElementsAre("0", "20", "40", "60", "80"));
}

TEST(AxisTest, LogarithmicTicksArePowersOfTen) {
  const double values[] = {2e-5, 0.03, -1, 0};
  const Axis axis = Axis::Logarithmic(values, 0);
  EXPECT_THAT(Labels(axis, 5), ElementsAre("10⁻⁴", "0.001", "0.01"));
  EXPECT_EQ(axis.Position(0), std::nullopt);
  EXPECT_DOUBLE_EQ(axis.Position(2e-5).value(), 0);
  // Half way between the logarithms.
  EXPECT_NEAR(axis.Position(std::sqrt(2e-5 * 0.03)).value(), 0.5, 1e-12);
}

TEST(AxisTest, CountingTicksAreWhole) {
  const double values[] = {0, 3};
  EXPECT_THAT(Labels(Axis::Counting(values), 8), ElementsAre("0", "1", "2", "3"));
}

TEST(AxisTest, OneValueAndExtremesAreHeld) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nothing[] = {infinity, -infinity, std::nan("")};
  EXPECT_TRUE(Axis::Linear(nothing).empty());
  const double one[] = {5};
  EXPECT_DOUBLE_EQ(Axis::Linear(one).Position(5).value(), 0.5);
  const double widest[] = {-1.7e308, 1.7e308};
  EXPECT_DOUBLE_EQ(Axis::Linear(widest, 0).Position(0).value(), 0.5);
}

TEST(ThinnedTest, KeepsTheEndsAndTheExtremes) {
  std::vector<Point> points(10'000, {0, 1});
  for (std::size_t i = 0; i < points.size(); ++i) points[i].x = static_cast<double>(i);
  points[1234].y = 9;
  points[8765].y = -9;
  const std::vector<Point> thinned = Thinned(points, 100);
  EXPECT_LE(thinned.size(), 102);
  EXPECT_EQ(thinned.front().x, 0);
  EXPECT_EQ(thinned.back().x, 9999);
  const auto has = [&](double x) { return std::ranges::count(thinned, x, &Point::x) == 1; };
  EXPECT_TRUE(has(1234));
  EXPECT_TRUE(has(8765));
  EXPECT_TRUE(std::ranges::is_sorted(thinned, {}, &Point::x));
}

TEST(ThinnedTest, LeavesShortCurvesAlone) {
  const std::vector<Point> points = {{1, 2}, {2, 3}, {3, 1}};
  EXPECT_EQ(Thinned(points, 3).size(), 3);
}

TEST(NumberTest, HasItsDigits) {
  EXPECT_EQ(Significant(30.2223), "30.22");
  EXPECT_EQ(Significant(0.6), "0.6000");
  EXPECT_EQ(Significant(9.9996), "10.00");
  EXPECT_EQ(Significant(2.87e-6), "2.870·10⁻⁶");
  EXPECT_EQ(Significant(-1234567.0), "−1.235·10⁶");
  EXPECT_EQ(Significant(0), "0");
  EXPECT_EQ(Brief(0.5), "0.5");
  EXPECT_EQ(Brief(1e-7), "10⁻⁷");
  EXPECT_EQ(Count(-1234567), "−1,234,567");
  EXPECT_EQ(Bytes(2566281), "2.45 MiB");
}

TEST(EscapeTest, LeavesNothingThatXmlWouldRefuse) {
  EXPECT_EQ(Escape("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  // A control character, a lone byte, a cut character, a surrogate and a non-character.
  EXPECT_EQ(Escape("\x01|\xFF|\xC3|\xED\xA0\x80|\xEF\xBF\xBF"), "�|�|�|���|�");
  EXPECT_EQ(Escape("è€𝄞\t"), "è€𝄞\t");
}

}  // namespace
}  // namespace teq::report
