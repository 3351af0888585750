#include "client/side_port/exposition.h"

#include <cmath>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>

#include "fmt/format.h"

namespace teq::http {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Of most series.
constexpr std::size_t kBytesPerSeries = 128;

void Append(std::string& text, std::uint64_t count) {
  fmt::format_to(std::back_inserter(text), "{}", count);
}

/// The shortest number that reads as the same double.
void Append(std::string& text, double value) {
  if (std::isnan(value)) {
    text += "NaN";
  } else if (std::isinf(value)) {
    text += value > 0 ? "+Inf" : "-Inf";
  } else {
    fmt::format_to(std::back_inserter(text), "{}", value);
  }
}

enum class Quotes { kStay, kAreEscaped };

void AppendEscaped(std::string& text, std::string_view part, Quotes quotes) {
  const char* run = part.data();
  const char* const end = run + part.size();
  for (const char* c = run; c != end; ++c) {
    if (*c != '\n' && *c != '\\' && *c != '"') continue;
    if (*c == '"' && quotes == Quotes::kStay) continue;
    text.append(run, c);
    text += '\\';
    text += *c == '\n' ? 'n' : *c;
    run = c + 1;
  }
  text.append(run, end);
}

/// A label beside the metric's own; its name is empty for none.
struct ExtraLabel {
  std::string_view name;
  double value = 0;
};

/// Of a series' line all before the value.
void AppendLineBegin(std::string& text, std::string_view name, std::string_view suffix,
                     const std::vector<ClientMetric::Label>& labels, const ExtraLabel& extra = {}) {
  text.append(name).append(suffix);
  std::string_view before = "{";
  for (const ClientMetric::Label& label : labels) {
    text.append(before).append(label.name).append("=\"");
    AppendEscaped(text, label.value, Quotes::kAreEscaped);
    text += '"';
    before = ",";
  }
  if (!extra.name.empty()) {
    text.append(before).append(extra.name).append("=\"");
    Append(text, extra.value);
    text += '"';
    before = ",";
  }
  if (before == ",") text += '}';
  text += ' ';
}

template <typename Value>
void AppendSeries(std::string& text, std::string_view name, std::string_view suffix,
                  const ClientMetric& metric, Value value, const ExtraLabel& extra = {}) {
  AppendLineBegin(text, name, suffix, metric.label, extra);
  Append(text, value);
  text += '\n';
}

void AppendHistogram(std::string& text, std::string_view name, const ClientMetric& metric) {
  const ClientMetric::Histogram& histogram = metric.histogram;
  AppendSeries(text, name, "_count", metric, histogram.sample_count);
  AppendSeries(text, name, "_sum", metric, histogram.sample_sum);
  double last = -INFINITY;
  for (const ClientMetric::Bucket& bucket : histogram.bucket) {
    AppendSeries(text, name, "_bucket", metric, bucket.cumulative_count,
                 {"le", bucket.upper_bound});
    last = bucket.upper_bound;
  }
  // The format asks for it.
  if (last != INFINITY) {
    AppendSeries(text, name, "_bucket", metric, histogram.sample_count, {"le", INFINITY});
  }
}

void AppendSummary(std::string& text, std::string_view name, const ClientMetric& metric) {
  const ClientMetric::Summary& summary = metric.summary;
  AppendSeries(text, name, "_count", metric, summary.sample_count);
  AppendSeries(text, name, "_sum", metric, summary.sample_sum);
  for (const ClientMetric::Quantile& quantile : summary.quantile) {
    AppendSeries(text, name, "", metric, quantile.value, {"quantile", quantile.quantile});
  }
}

std::string_view TypeName(MetricType type) {
  switch (type) {
    case MetricType::Counter:
      return "counter";
    case MetricType::Gauge:
      return "gauge";
    case MetricType::Summary:
      return "summary";
    case MetricType::Histogram:
      return "histogram";
    case MetricType::Untyped:
      break;
  }
  return "untyped";
}

void AppendHead(std::string& text, std::string_view name, std::string_view help, MetricType type) {
  if (!help.empty()) {
    text.append("# HELP ").append(name).append(" ");
    AppendEscaped(text, help, Quotes::kStay);
    text += '\n';
  }
  text.append("# TYPE ").append(name).append(" ").append(TypeName(type)) += '\n';
}

void AppendMetric(std::string& text, const MetricFamily& family, const ClientMetric& metric) {
  switch (family.type) {
    case MetricType::Counter:
      AppendSeries(text, family.name, "", metric, metric.counter.value);
      break;
    case MetricType::Gauge:
      AppendSeries(text, family.name, "", metric, metric.gauge.value);
      break;
    case MetricType::Untyped:
      AppendSeries(text, family.name, "", metric, metric.untyped.value);
      break;
    case MetricType::Histogram:
      AppendHistogram(text, family.name, metric);
      break;
    case MetricType::Summary:
      AppendSummary(text, family.name, metric);
      break;
  }
}

}  // namespace

std::string ExpositionText(const std::vector<MetricFamily>& families) {
  std::size_t metrics = 0;
  for (const MetricFamily& family : families) metrics += family.metric.size() + 2;
  std::string text;
  text.reserve(metrics * kBytesPerSeries);
  for (const MetricFamily& family : families) {
    AppendHead(text, family.name, family.help, family.type);
    for (const ClientMetric& metric : family.metric) AppendMetric(text, family, metric);
  }
  return text;
}

TextGauges::TextGauges(std::string_view name, std::string_view help) : name_(name) {
  AppendHead(head_, name, help, MetricType::Gauge);
}

std::string TextGauges::LineBegin(const prometheus::Labels& labels) const {
  std::vector<ClientMetric::Label> each;
  for (const auto& [name, value] : labels) each.push_back({name, value});
  std::string begin;
  AppendLineBegin(begin, name_, "", each);
  return begin;
}

bool TextGauges::Set(const prometheus::Labels& labels, double value) {
  std::string text;
  Append(text, value);
  text += '\n';
  return lines_.insert_or_assign(LineBegin(labels), std::move(text)).second;
}

void TextGauges::Remove(const prometheus::Labels& labels) { lines_.erase(LineBegin(labels)); }

void TextGauges::AppendTo(std::string& text) const {
  if (lines_.empty()) return;
  text += head_;
  for (const auto& [begin, value] : lines_) text.append(begin).append(value);
}

}  // namespace teq::http
