#include "client/model_info/plan.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "client/model_info/format_rules.h"
#include "client/model_info/layer_names.h"
#include "client/model_info/memory_plan.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/recipe.h"

namespace teq::model_info {
namespace {

absl::Status CheckGroups(const std::vector<PlannedLayer>& plan) {
  std::vector<const PlannedLayer*> bad;
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized && planned.grid.group_size > 0 &&
        planned.layer.in % planned.grid.group_size != 0) {
      bad.push_back(&planned);
    }
  }
  if (bad.empty()) return absl::OkStatus();
  const auto quantized =
      std::ranges::count_if(plan, [](const auto& planned) { return planned.grid.quantized; });
  const std::string skip = static_cast<std::ptrdiff_t>(bad.size()) < quantized
                               ? fmt::format(", or leave them float by {}", SkipOverride(bad))
                               : std::string();
  return Error(
      absl::StatusCode::kInvalidArgument, "GROUP_SIZE_MISMATCH",
      fmt::format("group_size does not divide the inputs of {}; choose one that does, or -1 for "
                  "whole rows{}",
                  NameLayers(bad,
                             [](const PlannedLayer& planned) {
                               return fmt::format("{} inputs, group_size {}", planned.layer.in,
                                                  planned.grid.group_size);
                             }),
                  skip));
}

/// Beyond its positions a model says nothing that could be measured.
absl::Status CheckWindow(const char* field, std::int64_t length, const ModelConfig& config) {
  if (length <= config.max_positions) return absl::OkStatus();
  return InvalidField("INVALID_SPEC", field,
                      fmt::format("{} is more than the model's max_position_embeddings, {}", length,
                                  config.max_positions));
}

/// An override that touches nothing is a typing error.
absl::Status CheckOverridesMatch(const teq::v1::Recipe& recipe,
                                 const std::vector<LinearLayer>& layers) {
  for (int i = 0; i < recipe.overrides_size(); ++i) {
    teq::v1::Recipe only;
    *only.add_overrides() = recipe.overrides(i);
    only.mutable_overrides(0)->set_skip(true);
    only.mutable_overrides(0)->clear_weights();
    const bool matches = std::any_of(layers.begin(), layers.end(), [&](const LinearLayer& layer) {
      return layer.quantizable && !GridOf(only, layer.name).quantized;
    });
    if (matches) continue;
    return InvalidField("INVALID_SPEC", fmt::format("recipe.overrides[{}].match", i),
                        fmt::format("\"{}\" matches no linear layer of the model; its first is {}",
                                    recipe.overrides(i).match(), layers.front().name));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<PlannedLayer>> PlanLayers(const teq::v1::JobSpec& spec,
                                                     const ModelConfig& config) {
  TEQ_RETURN_IF_ERROR(
      CheckWindow("calibration.sequence_length", spec.calibration().sequence_length(), config));
  if (spec.evaluation().uris_size() > 0) {
    TEQ_RETURN_IF_ERROR(
        CheckWindow("evaluation.sequence_length", spec.evaluation().sequence_length(), config));
  }
  const std::vector<LinearLayer> layers = LinearLayers(config);
  TEQ_RETURN_IF_ERROR(CheckOverridesMatch(spec.recipe(), layers));
  std::vector<PlannedLayer> plan;
  plan.reserve(layers.size());
  for (const LinearLayer& layer : layers) {
    LayerGrid grid = GridOf(spec.recipe(), layer.name);
    grid.quantized = grid.quantized && layer.quantizable;
    plan.push_back({layer, grid});
  }
  if (std::none_of(plan.begin(), plan.end(), [](const auto& p) { return p.grid.quantized; })) {
    return InvalidField("INVALID_SPEC", "recipe.overrides",
                        "every linear layer is skipped; leave at least one to quantize");
  }
  TEQ_RETURN_IF_ERROR(CheckGroups(plan));
  return plan;
}

std::vector<std::vector<std::size_t>> OpenSets(const teq::v1::Recipe& recipe,
                                               const std::vector<PlannedLayer>& plan) {
  std::map<std::pair<std::int64_t, std::optional<Role>>, std::size_t> places;
  std::vector<std::vector<std::size_t>> sets;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const LinearLayer& layer = plan[i].layer;
    if (!layer.quantizable || !BitsAreOpen(recipe, layer.name)) continue;
    const auto [place, is_new] = places.try_emplace({layer.block, LoadedRole(layer)}, sets.size());
    if (is_new) sets.emplace_back();
    sets[place->second].push_back(i);
  }
  return sets;
}

absl::Status CheckModel(const teq::v1::JobSpec& spec, const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(directory));
  TEQ_ASSIGN_OR_RETURN(const CheckpointIndex index, ReadCheckpointIndex(directory));
  MatchPrefix(index, config);
  TEQ_RETURN_IF_ERROR(CheckTensors(config, index));
  TEQ_ASSIGN_OR_RETURN(const std::vector<PlannedLayer> plan, PlanLayers(spec, config));
  TEQ_RETURN_IF_ERROR(CheckFormats(spec, config, plan, directory));
  return CheckMemoryLimit(spec, config, plan);
}

}  // namespace teq::model_info
