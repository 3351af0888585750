#include "worker/engine/report/layer_grid.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "worker/engine/report/html.h"

namespace teq::report {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t kNameLength = 18;
constexpr std::string_view kOther = "other";

std::vector<std::string_view> Parts(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::optional<std::int64_t> Number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::string Joined(std::span<const std::string_view> parts) {
  std::string name;
  for (const std::string_view part : parts) {
    if (!name.empty()) name += '.';
    name += part;
  }
  return name;
}

// The last `count` parts of a name.
std::string Ending(const std::string& name, std::size_t count) {
  const std::vector<std::string_view> parts = Parts(name);
  return Joined(std::span(parts).last(std::min(count, parts.size())));
}

// Removes "_proj" from all where all end so.
void StripCommonEnding(std::vector<std::string>& names) {
  if (names.size() < 2) return;
  const std::size_t mark = names.front().rfind('_');
  if (mark == std::string::npos) return;
  const std::string ending = names.front().substr(mark);
  if (!std::ranges::all_of(names, [&](const std::string& name) {
        return name.size() > ending.size() && name.ends_with(ending);
      })) {
    return;
  }
  for (std::string& name : names) name.resize(name.size() - ending.size());
}

void AddOnce(std::vector<const teq::v1::ScaleGroupReport*>& groups,
             const teq::v1::ScaleGroupReport* group) {
  if (std::ranges::find(groups, group) == groups.end()) groups.push_back(group);
}

// Columns of the grid: a kind's index, made where it is new.
class Kinds {
 public:
  std::size_t IndexOf(const std::string& kind) {
    const auto found = indices_.find(kind);
    if (found != indices_.end()) return found->second;
    const bool full = names_.size() + 1 >= LayerGrid::kMaxKinds;
    const std::string& name = full ? std::string(kOther) : kind;
    if (!full || names_.empty() || names_.back() != name) names_.push_back(name);
    indices_[kind] = names_.size() - 1;
    return names_.size() - 1;
  }
  [[nodiscard]] std::vector<std::string> names() const { return names_; }

 private:
  std::map<std::string, std::size_t> indices_;
  std::vector<std::string> names_;
};

}  // namespace

ModulePlace PlaceOf(std::string_view module_name) {
  std::vector<std::string_view> parts = Parts(module_name);
  const auto number =
      std::ranges::find_if(parts, [](std::string_view part) { return Number(part).has_value(); });
  if (number == parts.end() || number + 1 == parts.end()) {
    return {.block = std::nullopt, .kind = std::string(module_name)};
  }
  const std::optional<std::int64_t> block = Number(*number);
  const std::span<std::string_view> rest(number + 1, parts.end());
  for (std::string_view& part : rest) {
    if (Number(part)) part = "*";
  }
  return {.block = block, .kind = Joined(rest)};
}

double ErrorRatio(const teq::v1::LayerReport& layer) {
  const double ratio = layer.output_mse() / layer.output_mse_round_to_nearest();
  return std::isfinite(ratio) ? ratio : kNaN;
}

double Octaves(const teq::v1::ScaleGroupReport& group) {
  if (group.min() <= 0 || group.max() < group.min()) return kNaN;
  const double octaves = std::log2(group.max()) - std::log2(group.min());
  return std::isfinite(octaves) ? octaves : kNaN;
}

double GeometricMean(std::span<const double> values) {
  double sum = 0;
  int count = 0;
  for (const double value : values) {
    if (!std::isfinite(value) || value <= 0) continue;
    sum += std::log(value);
    ++count;
  }
  return count > 0 ? std::exp(sum / count) : kNaN;
}

double Mean(std::span<const double> values) {
  double mean = 0;
  int count = 0;
  for (const double value : values) {
    // Step by step, so that a sum of large numbers stays finite.
    if (std::isfinite(value)) mean += (value - mean) / ++count;
  }
  return count > 0 ? mean : kNaN;
}

std::vector<std::string> ShortNames(std::span<const std::string> kinds) {
  std::vector<std::string> names;
  for (const std::string& kind : kinds) {
    const std::size_t parts = Parts(kind).size();
    std::size_t count = 1;
    const auto is_shared = [&](const std::string& other) {
      return other != kind && Ending(other, count) == Ending(kind, count);
    };
    while (count < parts && std::ranges::any_of(kinds, is_shared)) ++count;
    names.push_back(Ending(kind, count));
  }
  StripCommonEnding(names);
  for (std::string& name : names) name = Shortened(name, kNameLength);
  return names;
}

LayerGrid::LayerGrid(const teq::v1::Report& report) {
  std::map<std::string_view, const teq::v1::ScaleGroupReport*> group_of;
  for (const teq::v1::ScaleGroupReport& group : report.scale_groups()) {
    for (const std::string& consumer : group.consumers()) group_of[consumer] = &group;
  }
  Kinds kinds;
  std::map<std::string, std::size_t> row_of;
  for (const teq::v1::LayerReport& layer : report.layers()) {
    const ModulePlace place = PlaceOf(layer.name());
    const std::string name = place.block ? std::to_string(*place.block) : std::string(kOther);
    const auto [row, is_new] = row_of.try_emplace(name, rows_.size());
    if (is_new) rows_.push_back({.block = place.block, .name = name, .cells = {}});
    std::vector<Cell>& cells = rows_[row->second].cells;
    const std::size_t kind = kinds.IndexOf(place.kind);
    if (cells.size() <= kind) cells.resize(kind + 1);
    cells[kind].layers.push_back(&layer);
    const auto group = group_of.find(layer.name());
    if (group != group_of.end()) AddOnce(cells[kind].groups, group->second);
  }
  kinds_ = kinds.names();
  names_ = ShortNames(kinds_);
  for (Row& row : rows_) row.cells.resize(kinds_.size());
}

double ErrorRatio(const LayerGrid::Cell& cell) {
  std::vector<double> ratios;
  for (const teq::v1::LayerReport* layer : cell.layers) ratios.push_back(ErrorRatio(*layer));
  return GeometricMean(ratios);
}

double Octaves(const LayerGrid::Cell& cell) {
  std::vector<double> octaves;
  for (const teq::v1::ScaleGroupReport* group : cell.groups) octaves.push_back(Octaves(*group));
  return Mean(octaves);
}

}  // namespace teq::report
