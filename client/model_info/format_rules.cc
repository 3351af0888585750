#include "client/model_info/format_rules.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>

#include "client/model_info/gguf_rules.h"
#include "client/model_info/layer_names.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/recipe.h"

namespace teq::model_info {
namespace {

using teq::v1::JobSpec;
using Plan = std::vector<PlannedLayer>;
using Layers = std::vector<const PlannedLayer*>;

constexpr std::string_view kShape = "SHAPE_NOT_PACKABLE";
constexpr std::string_view kCannotHold = "FORMAT_CANNOT_HOLD";

/// What a format can hold. The check's message says what it cannot, and how the recipe could
/// change.
struct FormatRule {
  teq::v1::Format format;
  absl::Status (*check)(const JobSpec& spec, const ModelConfig& config, const Plan& plan,
                        const std::filesystem::path& directory);
};

template <typename Predicate>
Layers QuantizedWhere(const Plan& plan, Predicate predicate) {
  Layers layers;
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized && predicate(planned)) layers.push_back(&planned);
  }
  return layers;
}

std::string Inputs(const PlannedLayer& planned) {
  return fmt::format("{} inputs", planned.layer.in);
}

std::string Outputs(const PlannedLayer& planned) {
  return fmt::format("{} outputs", planned.layer.out);
}

/// The override, or `otherwise` where it would leave nothing to quantize.
std::string Remedy(const Plan& plan, const Layers& bad, std::string_view otherwise) {
  const Layers all = QuantizedWhere(plan, [](const PlannedLayer&) { return true; });
  if (bad.size() == all.size()) return std::string(otherwise);
  return "leave them float by " + SkipOverride(bad);
}

absl::Status CannotHold(std::string_view reason, std::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, reason, message);
}

/// The bits that a layer must be packable with. What fills words at 3 bits fills them at every
/// width that target_bits may choose.
int PackedBits(const teq::v1::Recipe& recipe, const PlannedLayer& planned) {
  return BitsAreOpen(recipe, planned.layer.name) ? 3 : planned.grid.bits;
}

/// The codes of a layer's inputs must fill words, and so must the zero points of all outputs.
absl::Status CheckGptq(const JobSpec& spec, const ModelConfig& /*config*/, const Plan& plan,
                       const std::filesystem::path& /*directory*/) {
  const auto bits = [&](const PlannedLayer& planned) { return PackedBits(spec.recipe(), planned); };
  const Layers bad_inputs = QuantizedWhere(plan, [&](const PlannedLayer& planned) {
    return planned.layer.in * bits(planned) % 32 != 0;
  });
  if (!bad_inputs.empty()) {
    return CannotHold(kShape, fmt::format("{}-bit codes of an output do not fill 32-bit words in "
                                          "{}; leave them float by {}",
                                          bits(*bad_inputs.front()), NameLayers(bad_inputs, Inputs),
                                          SkipOverride(bad_inputs)));
  }
  const Layers bad_outputs = QuantizedWhere(plan, [&](const PlannedLayer& planned) {
    return planned.layer.out * bits(planned) % 32 != 0;
  });
  if (bad_outputs.empty()) return absl::OkStatus();
  return CannotHold(kShape,
                    fmt::format("{}-bit zero points of a group do not fill 32-bit words in "
                                "{}; leave them float by {}",
                                bits(*bad_outputs.front()), NameLayers(bad_outputs, Outputs),
                                SkipOverride(bad_outputs)));
}

/// Loaders of these formats know only layers that are stored [out, in]: those of a Conv1D would
/// keep random weights.
absl::Status CheckNotTransposed(const ModelConfig& config, const Plan& plan) {
  if (!config.transposed_linears) return absl::OkStatus();
  const Layers all = QuantizedWhere(plan, [](const PlannedLayer&) { return true; });
  return CannotHold(kCannotHold,
                    fmt::format("its loaders have no layers that are stored [in, out] (Conv1D), as "
                                "{} has them: {}",
                                config.model_type, NameLayers(all, [](const PlannedLayer& planned) {
                                  return fmt::format("[{}, {}]", planned.layer.in,
                                                     planned.layer.out);
                                })));
}

absl::Status CheckAwqGrids(const JobSpec& spec, const Plan& plan) {
  const Layers open = QuantizedWhere(plan, [&](const PlannedLayer& planned) {
    return BitsAreOpen(spec.recipe(), planned.layer.name);
  });
  if (!open.empty()) {
    return CannotHold(
        kCannotHold,
        fmt::format("holds codes of 4 bits alone, but target_bits {} may give {} layers "
                    "other widths, {} first; give bits: 4 in its place",
                    spec.recipe().weights().target_bits(), open.size(), open.front()->layer.name));
  }
  const Layers other_bits =
      QuantizedWhere(plan, [](const PlannedLayer& planned) { return planned.grid.bits != 4; });
  if (!other_bits.empty()) {
    return CannotHold(kCannotHold, fmt::format("holds codes of 4 bits alone, not those of {}; {}",
                                               NameLayers(other_bits,
                                                          [](const PlannedLayer& planned) {
                                                            return fmt::format("{} bits",
                                                                               planned.grid.bits);
                                                          }),
                                               Remedy(plan, other_bits, "give bits: 4")));
  }
  std::map<int, std::size_t> sizes;
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized) ++sizes[planned.grid.group_size];
  }
  const int general =
      std::max_element(sizes.begin(), sizes.end(), [](const auto& a, const auto& b) {
        return a.second < b.second;
      })->first;
  const Layers other_groups = QuantizedWhere(
      plan, [&](const PlannedLayer& planned) { return planned.grid.group_size != general; });
  if (other_groups.empty()) return absl::OkStatus();
  return CannotHold(
      kCannotHold,
      fmt::format("has one group_size for the whole model, {}, not that of {}; leave them float by "
                  "{}, or give all layers the same",
                  general,
                  NameLayers(other_groups,
                             [](const PlannedLayer& planned) {
                               return fmt::format("group_size {}", planned.grid.group_size);
                             }),
                  SkipOverride(other_groups)));
}

/// Zero points are stored for symmetric layers too, so those may stand beside asymmetric ones.
absl::Status CheckAwq(const JobSpec& spec, const ModelConfig& config, const Plan& plan,
                      const std::filesystem::path& /*directory*/) {
  TEQ_RETURN_IF_ERROR(CheckNotTransposed(config, plan));
  TEQ_RETURN_IF_ERROR(CheckAwqGrids(spec, plan));
  const Layers bad =
      QuantizedWhere(plan, [](const PlannedLayer& planned) { return planned.layer.out % 8 != 0; });
  if (bad.empty()) return absl::OkStatus();
  return CannotHold(
      kShape, fmt::format("4-bit codes of an input do not fill 32-bit words in {}; {}",
                          NameLayers(bad, Outputs),
                          Remedy(plan, bad, "choose another format: no layer would be left")));
}

/// Rows are padded to whole words, and every layer may have a grid of its own.
absl::Status CheckCompressedTensors(const JobSpec& /*spec*/, const ModelConfig& config,
                                    const Plan& plan, const std::filesystem::path& /*directory*/) {
  return CheckNotTransposed(config, plan);
}

absl::Status CheckNothing(const JobSpec& /*spec*/, const ModelConfig& /*config*/,
                          const Plan& /*plan*/, const std::filesystem::path& /*directory*/) {
  return absl::OkStatus();
}

constexpr FormatRule kRules[] = {
    {teq::v1::FORMAT_GPTQ, CheckGptq},
    {teq::v1::FORMAT_AWQ, CheckAwq},
    {teq::v1::FORMAT_COMPRESSED_TENSORS, CheckCompressedTensors},
    {teq::v1::FORMAT_GGUF, CheckGguf},
    {teq::v1::FORMAT_DEQUANTIZED, CheckNothing},
};

std::string NameOf(teq::v1::Format format) {
  return ShortEnumName(teq::v1::Format_descriptor(), format);
}

}  // namespace

absl::Status CheckFormats(const JobSpec& spec, const ModelConfig& config, const Plan& plan,
                          const std::filesystem::path& directory) {
  for (const FormatRule& rule : kRules) {
    const auto& asked = spec.output().formats();
    if (std::find(asked.begin(), asked.end(), rule.format) == asked.end()) continue;
    const absl::Status status = rule.check(spec, config, plan, directory);
    if (status.ok()) continue;
    std::vector<std::string> holding;
    for (const FormatRule& other : kRules) {
      if (other.check(spec, config, plan, directory).ok()) holding.push_back(NameOf(other.format));
    }
    const std::string name = NameOf(rule.format);
    return Error(status.code(), ErrorReason(status),
                 fmt::format("format {}: {}; formats that hold this plan as it is: {}", name,
                             std::string(status.message()), fmt::join(holding, ", ")),
                 {{"format", name}});
  }
  return absl::OkStatus();
}

}  // namespace teq::model_info
