#pragma once

#include <span>
#include <string_view>

#include "teq/v1/recipe.pb.h"

namespace teq {

/// A named recipe as it is written in presets.cc.
struct PresetText {
  teq::v1::Preset preset;
  std::string_view summary;  // one line for people
  std::string_view recipe;   // YAML, as in a job file
};

/// All presets, from the quickest to the best.
[[nodiscard]] std::span<const PresetText> Presets();

/// The recipe that a preset stands for, before defaults; empty for PRESET_UNSPECIFIED and for a
/// number that is no preset.
[[nodiscard]] const teq::v1::Recipe& PresetRecipe(teq::v1::Preset preset);

}  // namespace teq
