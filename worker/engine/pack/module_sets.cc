#include "worker/engine/pack/module_sets.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "worker/engine/pack/checkpoint_directory.h"

namespace teq::pack {
namespace {

using Place = std::pair<std::string, std::string>;  // parent and name, as a set has them
using Setting = std::tuple<bool, int, int, bool>;   // a grid; all float ones are one

Setting SettingOf(const LayerGrid& grid) {
  if (!grid.quantized) return {};
  return {true, grid.bits, grid.group_size, grid.symmetric};
}

Place PlaceOf(const model_info::ModelConfig& config, const model_info::LinearLayer& layer) {
  std::string pattern = ModulePattern(config, layer.name);
  pattern.pop_back();  // the end
  const std::string between = layer.expert < 0 ? "\\." : fmt::format("\\.{}\\.", layer.expert);
  const std::size_t at = pattern.rfind(between);
  return {pattern.substr(0, at), pattern.substr(at + between.size())};
}

/// Tells the experts of one setting from the others at a place.
std::string Numbers(const std::map<Setting, std::vector<int>>& experts, const Setting& setting) {
  const std::vector<int>& numbers = experts.at(setting);
  if (numbers.size() == 1) return std::to_string(numbers.front());
  if (experts.size() == 1) return "\\d+";
  return fmt::format("(?:{})", fmt::join(numbers, "|"));
}

}  // namespace

std::vector<ModuleSet> ModuleSets(const model_info::ModelConfig& config,
                                  const std::vector<model_info::PlannedLayer>& plan) {
  std::vector<Place> places;
  std::map<Place, std::map<Setting, std::vector<int>>> experts;
  for (const model_info::PlannedLayer& planned : plan) {
    places.push_back(PlaceOf(config, planned.layer));
    if (planned.layer.expert < 0) continue;
    experts[places.back()][SettingOf(planned.grid)].push_back(planned.layer.expert);
  }
  std::vector<ModuleSet> sets;
  std::map<std::tuple<std::string, std::string, Setting>, std::size_t> known;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const model_info::PlannedLayer& planned = plan[i];
    const auto& [parent, name] = places[i];
    const Setting setting = SettingOf(planned.grid);
    std::string numbers;
    if (planned.layer.expert >= 0) numbers = Numbers(experts.at(places[i]), setting);
    const auto [found, is_new] = known.try_emplace({parent, numbers, setting}, sets.size());
    if (is_new) {
      sets.push_back({.grid = planned.grid,
                      .layers = {},
                      .parent = parent,
                      .experts = std::move(numbers),
                      .names = {}});
    }
    ModuleSet& set = sets[found->second];
    set.layers.push_back(&planned.layer);
    if (std::ranges::find(set.names, name) == set.names.end()) set.names.push_back(name);
  }
  return sets;
}

std::string AnyOf(const std::vector<std::string>& expressions) {
  if (expressions.size() == 1) return expressions.front();
  return fmt::format("(?:{})", fmt::join(expressions, "|"));
}

}  // namespace teq::pack
