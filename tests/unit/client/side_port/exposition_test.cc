#include "client/side_port/exposition.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/summary.h"
#include "prometheus/text_serializer.h"

namespace teq::http {
namespace {

using ::testing::HasSubstr;

struct Line {
  std::string series;  // all before the value; of comments the whole line
  std::string value;
};

std::vector<Line> Lines(const std::string& text) {
  std::vector<Line> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    const std::size_t space = line.starts_with('#') ? std::string::npos : line.rfind(' ');
    lines.push_back({line.substr(0, space),
                     space == std::string::npos ? std::string() : line.substr(space + 1)});
  }
  return lines;
}

/// The same lines, where a number may be written otherwise.
void ExpectSame(const std::vector<Line>& ours, const std::vector<Line>& theirs) {
  ASSERT_EQ(ours.size(), theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(ours[i].series, theirs[i].series);
    if (ours[i].value.empty()) continue;
    const double our_value = std::strtod(ours[i].value.c_str(), nullptr);
    const double their_value = std::strtod(theirs[i].value.c_str(), nullptr);
    EXPECT_TRUE(our_value == their_value || (std::isnan(our_value) && std::isnan(their_value)))
        << ours[i].series << " " << ours[i].value << " " << theirs[i].value;
  }
}

constexpr double kValues[] = {0,        -0.0,
                              0.1,      -17.25,
                              1e-300,   1e21,
                              1e6,      123456.7,
                              INFINITY, -INFINITY,
                              NAN,      1e16,
                              1.0 / 3,  std::numeric_limits<double>::denorm_min()};

TEST(ExpositionTextTest, SaysWhatTheLibrarysSerializerSays) {
  prometheus::Registry registry;
  auto& counters = prometheus::BuildCounter().Name("c_total").Help("Counts.").Register(registry);
  counters.Add({}).Increment(3);
  counters.Add({{"uri", "s3://bucket/a \"b\"\\c\nd"}, {"name", "Käse"}}).Increment(1e15);
  auto& gauges = prometheus::BuildGauge().Name("g").Help("Gauges.").Register(registry);
  for (int i = 0; const double value : kValues) {
    gauges.Add({{"n", std::to_string(i++)}}).Set(value);
  }
  auto& histogram = prometheus::BuildHistogram()
                        .Name("h_seconds")
                        .Help("")
                        .Register(registry)
                        .Add({{"method", "Get"}}, std::vector<double>{0.005, 0.25, 10});
  for (const double seconds : {0.001, 0.1, 3.0, 60.0}) histogram.Observe(seconds);
  prometheus::BuildSummary()
      .Name("s")
      .Help("Sums.")
      .Register(registry)
      .Add({}, prometheus::Summary::Quantiles{{0.5, 0.05}})
      .Observe(2);

  ExpectSame(Lines(ExpositionText(registry.Collect())),
             Lines(prometheus::TextSerializer().Serialize(registry.Collect())));
}

TEST(ExpositionTextTest, NumbersAreShortAndExact) {
  prometheus::MetricFamily family{.name = "g", .type = prometheus::MetricType::Gauge};
  family.metric.resize(1);
  family.metric[0].gauge.value = 0.1;
  EXPECT_EQ(ExpositionText({family}), "# TYPE g gauge\ng 0.1\n");
}

TEST(ExpositionTextTest, HelpStaysOnItsLine) {
  const prometheus::MetricFamily family{
      .name = "g", .help = "Two\nlines, a \\ and a \".", .type = prometheus::MetricType::Gauge};
  EXPECT_EQ(ExpositionText({family}), "# HELP g Two\\nlines, a \\\\ and a \".\n# TYPE g gauge\n");
}

TEST(ExpositionTextTest, LabelsAreEscapedAsTheFormatSays) {
  prometheus::MetricFamily family{.name = "g", .type = prometheus::MetricType::Gauge};
  family.metric.resize(1);
  family.metric[0].label = {{"a", "\"\\\n"}};
  EXPECT_THAT(ExpositionText({family}), HasSubstr("g{a=\"\\\"\\\\\\n\"} 0\n"));
}

std::string TextOf(const TextGauges& gauges) {
  std::string text;
  gauges.AppendTo(text);
  return text;
}

TEST(TextGaugesTest, SayWhatTheLibrarysSerializerSays) {
  constexpr char kHelp[] = "Gauges, \"quoted\".";
  prometheus::Registry registry;
  auto& theirs = prometheus::BuildGauge().Name("g").Help(kHelp).Register(registry);
  TextGauges ours("g", kHelp);
  const auto set = [&](const prometheus::Labels& labels, double value) {
    theirs.Add(labels).Set(value);
    ours.Set(labels, value);
  };
  set({}, 7);
  set({{"uri", "s3://bucket/a \"b\"\\c\nd"}, {"name", "Käse"}, {"empty", ""}}, 1e15);
  for (int i = 0; const double value : kValues) set({{"n", std::to_string(i++)}}, value);
  const auto sorted = [](std::vector<Line> lines) {
    std::sort(lines.begin(), lines.end(),
              [](const Line& a, const Line& b) { return a.series < b.series; });
    return lines;
  };
  const std::string text = TextOf(ours);
  EXPECT_TRUE(text.starts_with("# HELP g "));
  ExpectSame(sorted(Lines(text)),
             sorted(Lines(prometheus::TextSerializer().Serialize(registry.Collect()))));
}

TEST(TextGaugesTest, ASeriesHasItsNewestValue) {
  TextGauges gauges("g", "");
  EXPECT_TRUE(gauges.Set({{"a", "x"}}, 1));
  EXPECT_FALSE(gauges.Set({{"a", "x"}}, 2.5));
  EXPECT_TRUE(gauges.Set({{"a", "y"}}, 3));
  EXPECT_EQ(gauges.size(), 2);
  EXPECT_EQ(TextOf(gauges), "# TYPE g gauge\ng{a=\"x\"} 2.5\ng{a=\"y\"} 3\n");
}

TEST(TextGaugesTest, ARemovedSeriesIsGoneAndTheLastTakesTheFamilyAlong) {
  TextGauges gauges("g", "Gauges.");
  gauges.Set({{"a", "x"}}, 1);
  gauges.Set({{"a", "y"}}, 2);
  gauges.Remove({{"a", "x"}});
  gauges.Remove({{"a", "never there"}});
  EXPECT_EQ(TextOf(gauges), "# HELP g Gauges.\n# TYPE g gauge\ng{a=\"y\"} 2\n");
  gauges.Remove({{"a", "y"}});
  EXPECT_EQ(gauges.size(), 0);
  EXPECT_EQ(TextOf(gauges), "");
}

}  // namespace
}  // namespace teq::http
