#include "client/model_info/plan.h"

#include <algorithm>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

// The size of a layer list in a message; the rest is counted.
constexpr std::size_t kNamedLayers = 4;

std::string NameLayers(const std::vector<const PlannedLayer*>& layers, const char* what,
                       std::int64_t LinearLayer::*size) {
  std::vector<std::string> names;
  for (const PlannedLayer* planned : layers) {
    if (names.size() == kNamedLayers) break;
    names.push_back(fmt::format("{} ({} {})", planned->layer.name, planned->layer.*size, what));
  }
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  if (layers.size() > kNamedLayers)
    text += fmt::format(" and {} more", layers.size() - kNamedLayers);
  return text;
}

/// The override that leaves the layers float: one pattern over the last parts of their names.
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

absl::Status CheckGroups(const std::vector<PlannedLayer>& plan) {
  std::vector<const PlannedLayer*> bad;
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized && planned.grid.group_size > 0 &&
        planned.layer.in % planned.grid.group_size != 0) {
      bad.push_back(&planned);
    }
  }
  if (bad.empty()) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, "GROUP_SIZE_MISMATCH",
      fmt::format("group_size {} does not divide the inputs of {}; choose one that does, or "
                  "leave them float by {}",
                  bad.front()->grid.group_size, NameLayers(bad, "inputs", &LinearLayer::in),
                  SkipOverride(bad)));
}

/// The bits that a layer must be packable with. What fills words at 3 bits fills them at every
/// width that target_bits may choose.
int PackedBits(const teq::v1::Recipe& recipe, const PlannedLayer& planned) {
  return BitsAreOpen(recipe, planned.layer.name) ? 3 : planned.grid.bits;
}

/// The codes of 32 inputs must fill words, and so must the zero points of all outputs.
absl::Status CheckGptq(const teq::v1::Recipe& recipe, const std::vector<PlannedLayer>& plan) {
  std::vector<const PlannedLayer*> bad_inputs;
  std::vector<const PlannedLayer*> bad_outputs;
  for (const PlannedLayer& planned : plan) {
    if (!planned.grid.quantized) continue;
    const int bits = PackedBits(recipe, planned);
    if (planned.layer.in * bits % 32 != 0) bad_inputs.push_back(&planned);
    if (planned.layer.out * bits % 32 != 0) bad_outputs.push_back(&planned);
  }
  if (!bad_inputs.empty()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "SHAPE_NOT_PACKABLE",
        fmt::format("format GPTQ: {}-bit codes of an output do not fill 32-bit words in {}; "
                    "leave them float by {}",
                    PackedBits(recipe, *bad_inputs.front()),
                    NameLayers(bad_inputs, "inputs", &LinearLayer::in), SkipOverride(bad_inputs)));
  }
  if (!bad_outputs.empty()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "SHAPE_NOT_PACKABLE",
        fmt::format("format GPTQ: {}-bit zero points of a group do not fill 32-bit words in "
                    "{}; leave them float by {}",
                    PackedBits(recipe, *bad_outputs.front()),
                    NameLayers(bad_outputs, "outputs", &LinearLayer::out),
                    SkipOverride(bad_outputs)));
  }
  return absl::OkStatus();
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
  TEQ_RETURN_IF_ERROR(
      CheckWindow("evaluation.sequence_length", spec.evaluation().sequence_length(), config));
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
  TEQ_RETURN_IF_ERROR(CheckGptq(spec.recipe(), plan));
  return plan;
}

absl::Status CheckModel(const teq::v1::JobSpec& spec, const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(directory));
  TEQ_ASSIGN_OR_RETURN(const CheckpointIndex index, ReadCheckpointIndex(directory));
  MatchPrefix(index, config);
  TEQ_RETURN_IF_ERROR(CheckTensors(config, index));
  return PlanLayers(spec, config).status();
}

}  // namespace teq::model_info
