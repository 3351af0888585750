#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "prometheus/labels.h"
#include "prometheus/metric_family.h"

namespace teq::http {

/// Families in Prometheus' text format, version 0.0.4. It says what prometheus::TextSerializer
/// says; that one writes each label through a stream, which made half of what a scrape of a busy
/// server costs.
[[nodiscard]] std::string ExpositionText(const std::vector<prometheus::MetricFamily>& families);

/// A family of gauges that is kept as that text, for many series that come and go: a scrape of
/// prometheus::Family copies every label of each series, one of this appends their lines. Not
/// thread-safe.
class TextGauges {
 public:
  TextGauges(std::string_view name, std::string_view help);

  /// True when this made the series. The names of labels are valid ones.
  bool Set(const prometheus::Labels& labels, double value);
  void Remove(const prometheus::Labels& labels);
  [[nodiscard]] std::size_t size() const { return lines_.size(); }

  /// Without series nothing, as a Registry leaves out empty families.
  void AppendTo(std::string& text) const;

 private:
  [[nodiscard]] std::string LineBegin(const prometheus::Labels& labels) const;

  const std::string name_;
  std::string head_;                          // HELP and TYPE
  std::map<std::string, std::string> lines_;  // of each its series, and its value
};

}  // namespace teq::http
