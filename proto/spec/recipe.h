#pragma once

#include <array>
#include <string_view>

#include "teq/v1/recipe.pb.h"

namespace teq {

/// The bits that a code can have, ascending.
inline constexpr std::array kCodeWidths = {2, 3, 4, 8};

/// `recipe` with its preset written out and every unset field that has a default set to it.
///
/// A recipe without preset, transform, clipping, rounding and schedule gets the preset BALANCED. A
/// preset's fields are those of PresetRecipe with the recipe's own merged over them: a kind that
/// the recipe names in transform, clipping or rounding replaces the preset's, the same kind keeps
/// the preset's fields where it gives none, and one that is present but empty is off (rounding:
/// nearest). Where the recipe replaces the preset's TEQ, what is still trained keeps the preset's
/// schedule. Without a preset what is absent is off.
///
/// `schedule` is set only where it is what ScheduleOf reads. Applying it twice changes nothing.
[[nodiscard]] teq::v1::Recipe RecipeWithDefaults(teq::v1::Recipe recipe);

/// Whether factors of clipping are searched, as they are or to start a training from.
[[nodiscard]] bool SearchesClipping(const teq::v1::Recipe& recipe);

/// Whether statistics of the calibration text are needed before anything is trained or rounded.
[[nodiscard]] bool Calibrates(const teq::v1::Recipe& recipe);

/// Whether anything is trained: TEQ's scales, learned clipping, learned rounding.
[[nodiscard]] bool Trains(const teq::v1::Recipe& recipe);

/// How a recipe with defaults trains, all that it trains being trained together: transform.teq's
/// own fields, else `schedule`. Empty where nothing is trained.
[[nodiscard]] teq::v1::Schedule ScheduleOf(const teq::v1::Recipe& recipe);

/// The grid of one linear layer after the recipe's overrides.
struct LayerGrid {
  bool quantized = true;
  int bits = 4;
  int group_size = 128;  // -1: the whole row
  bool symmetric = false;
};

/// The grid of module `name` under a recipe with defaults; the last matching override wins, its
/// unset fields keep the recipe's values. Where BitsAreOpen, `bits` is provisional: target_bits,
/// rounded up to a width.
[[nodiscard]] LayerGrid GridOf(const teq::v1::Recipe& recipe, std::string_view name);

/// Whether target_bits decides the bits of module `name`: the recipe has it, and no override names
/// the module.
[[nodiscard]] bool BitsAreOpen(const teq::v1::Recipe& recipe, std::string_view name);

}  // namespace teq
