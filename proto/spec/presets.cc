#include "proto/spec/presets.h"

#include <array>
#include <map>
#include <string>

#include "proto/spec/job_file.h"

namespace teq {
namespace {

using teq::v1::Preset;
using teq::v1::Recipe;

// Numbers that a preset does not write are the defaults.
constexpr std::array kPresets = {
    PresetText{teq::v1::PRESET_FAST,
               "nothing is trained: AWQ's scales, searched clipping, GPTQ's rounding", R"(
recipe:
  transform: {awq: {}}
  clipping: {search: {}}
  rounding: {gptq: {}}
)"},
    PresetText{teq::v1::PRESET_BALANCED,
               "the default: a short joint training of scales, clipping and rounding", R"(
recipe:
  transform:
    teq:
      steps: 120
      batch_size: 4
      learning_rate: 0.002
      objective: BLOCK_MSE
      init: AWQ
      held_back_fraction: 0.0625
      end_to_end_steps: 500
      redrawn_fraction: 0.25
  clipping: {learned: {}}
  rounding: {learned: {learning_rate: 0.014}}
)"},
    PresetText{teq::v1::PRESET_BEST, "a long joint training of scales, clipping and rounding", R"(
recipe:
  transform:
    teq:
      steps: 250
      batch_size: 8
      learning_rate: 0.002
      objective: BLOCK_MSE
      init: AWQ
      held_back_fraction: 0.0625
      end_to_end_steps: 1000
      redrawn_fraction: 0.5
  clipping: {learned: {}}
  rounding: {learned: {learning_rate: 0.01}}
)"},
};

std::map<Preset, Recipe> ParsePresets() {
  std::map<Preset, Recipe> recipes;
  for (const PresetText& text : kPresets) {
    // A text that does not parse is a fault of this file; presets_test reads them all.
    recipes[text.preset] = ParseJobFile(text.recipe, "presets.cc").value().job.spec().recipe();
  }
  return recipes;
}

}  // namespace

std::span<const PresetText> Presets() { return kPresets; }

const Recipe& PresetRecipe(Preset preset) {
  static const std::map<Preset, Recipe> recipes = ParsePresets();
  const auto found = recipes.find(preset);
  return found == recipes.end() ? Recipe::default_instance() : found->second;
}

}  // namespace teq
