#include "client/model_info/layer_names.h"

#include <algorithm>

#include "fmt/format.h"
#include "fmt/ranges.h"

namespace teq::model_info {
namespace {

// The size of a layer list in a message; the rest is counted.
constexpr std::size_t kNamedLayers = 4;

}  // namespace

std::string NameLayers(const std::vector<const PlannedLayer*>& layers,
                       const std::function<std::string(const PlannedLayer&)>& detail) {
  std::vector<std::string> names;
  for (const PlannedLayer* planned : layers) {
    if (names.size() == kNamedLayers) break;
    names.push_back(fmt::format("{} ({})", planned->layer.name, detail(*planned)));
  }
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  if (layers.size() > kNamedLayers) {
    text += fmt::format(" and {} more", layers.size() - kNamedLayers);
  }
  return text;
}

std::string SkipOverride(const std::vector<const PlannedLayer*>& layers) {
  std::vector<std::string> suffixes;
  for (const PlannedLayer* planned : layers) {
    std::string suffix = planned->layer.name.substr(planned->layer.name.rfind('.') + 1);
    if (std::find(suffixes.begin(), suffixes.end(), suffix) == suffixes.end()) {
      suffixes.push_back(std::move(suffix));
    }
  }
  return fmt::format("overrides: [{{match: \"re:.*\\\\.({})\", skip: true}}]",
                     fmt::join(suffixes, "|"));
}

}  // namespace teq::model_info
