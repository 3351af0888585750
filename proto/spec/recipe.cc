#include "proto/spec/recipe.h"

#include <algorithm>
#include <utility>

#include "proto/spec/defaults.h"
#include "proto/spec/module_pattern.h"
#include "proto/spec/presets.h"

namespace teq {
namespace {

using teq::v1::Recipe;
using teq::v1::Schedule;
using teq::v1::Teq;
using teq::v1::Weights;

void SetWeightDefaults(Weights& weights) {
  if (!weights.has_bits() && !weights.has_target_bits()) weights.set_bits(defaults::kBits);
  if (!weights.has_group_size()) weights.set_group_size(defaults::kGroupSize);
  if (!weights.has_symmetric()) weights.set_symmetric(defaults::kSymmetric);
}

// What Teq and Schedule have in common.
template <typename Training>
void SetTrainingDefaults(Training& training) {
  if (!training.has_steps()) training.set_steps(defaults::kSteps);
  if (!training.has_batch_size()) training.set_batch_size(defaults::kBatchSize);
  if (training.objective() == teq::v1::OBJECTIVE_UNSPECIFIED) {
    training.set_objective(defaults::kObjective);
  }
  if (training.gradient() == teq::v1::GRADIENT_UNSPECIFIED) {
    training.set_gradient(defaults::kGradient);
  }
  if (!training.has_held_back_fraction()) {
    training.set_held_back_fraction(defaults::kHeldBackFraction);
  }
  if (training.block_inputs() == teq::v1::BLOCK_INPUTS_UNSPECIFIED) {
    training.set_block_inputs(defaults::kBlockInputs);
  }
  if (!training.has_end_to_end_steps()) training.set_end_to_end_steps(defaults::kEndToEndSteps);
  if (training.compute_type() == teq::v1::COMPUTE_TYPE_UNSPECIFIED) {
    training.set_compute_type(defaults::kComputeType);
  }
  if (!training.has_redrawn_fraction()) training.set_redrawn_fraction(defaults::kRedrawnFraction);
}

void SetTransformDefaults(teq::v1::Transform& transform) {
  if (!transform.has_teq()) return;
  Teq& teq = *transform.mutable_teq();
  SetTrainingDefaults(teq);
  if (!teq.has_learning_rate()) teq.set_learning_rate(defaults::kLearningRate);
  if (teq.init() == teq::v1::INITIALIZATION_UNSPECIFIED) teq.set_init(defaults::kInit);
}

void SetClippingDefaults(teq::v1::Clipping& clipping) {
  if (!clipping.has_learned()) return;
  auto& learned = *clipping.mutable_learned();
  if (!learned.has_learning_rate()) learned.set_learning_rate(defaults::kClippingLearningRate);
  if (!learned.has_start_from_search()) learned.set_start_from_search(defaults::kStartFromSearch);
}

void SetGptqDefaults(teq::v1::GptqRounding& gptq) {
  if (!gptq.has_damping()) gptq.set_damping(defaults::kDamping);
  if (gptq.group_range() == teq::v1::GROUP_RANGE_UNSPECIFIED) {
    gptq.set_group_range(defaults::kGroupRange);
  }
  if (!gptq.has_order_by_activation()) gptq.set_order_by_activation(defaults::kOrderByActivation);
}

void SetRoundingDefaults(teq::v1::Rounding& rounding) {
  switch (rounding.kind_case()) {
    case teq::v1::Rounding::KIND_NOT_SET:
      rounding.mutable_nearest();
      return;
    case teq::v1::Rounding::kNearest:
      return;
    case teq::v1::Rounding::kGptq:
      return SetGptqDefaults(*rounding.mutable_gptq());
    case teq::v1::Rounding::kLearned: {
      auto& learned = *rounding.mutable_learned();
      if (!learned.has_learning_rate()) learned.set_learning_rate(defaults::kRoundingLearningRate);
      if (learned.optimizer() == teq::v1::OPTIMIZER_UNSPECIFIED) {
        learned.set_optimizer(defaults::kOptimizer);
      }
      return;
    }
  }
}

bool NeedsSchedule(const Recipe& recipe) { return Trains(recipe) && !recipe.transform().has_teq(); }

// The preset's recipe with `own` merged over it.
Recipe OverPreset(const Recipe& own) {
  const Recipe& preset = PresetRecipe(own.preset());
  Recipe recipe = preset;
  recipe.MergeFrom(own);
  // Present and empty is off, which a merge cannot say.
  if (own.has_transform() && own.transform().kind_case() == teq::v1::Transform::KIND_NOT_SET) {
    recipe.mutable_transform()->Clear();
  }
  if (own.has_clipping() && own.clipping().kind_case() == teq::v1::Clipping::KIND_NOT_SET) {
    recipe.mutable_clipping()->Clear();
  }
  if (own.has_rounding() && own.rounding().kind_case() == teq::v1::Rounding::KIND_NOT_SET) {
    recipe.mutable_rounding()->Clear();
  }
  if (NeedsSchedule(recipe) && Trains(preset)) {
    *recipe.mutable_schedule() = ScheduleOf(preset);
    recipe.mutable_schedule()->MergeFrom(own.schedule());
  }
  return recipe;
}

// The last override that names the module; null where none does.
const teq::v1::Override* OverrideOf(const Recipe& recipe, std::string_view name) {
  for (int i = recipe.overrides_size() - 1; i >= 0; --i) {
    const auto pattern = ModulePattern::Parse(recipe.overrides(i).match());
    if (pattern.ok() && pattern->Matches(name)) return &recipe.overrides(i);
  }
  return nullptr;
}

int ProvisionalBits(double target) {
  const auto width =
      std::ranges::find_if(kCodeWidths, [target](int bits) { return bits >= target; });
  return width == kCodeWidths.end() ? kCodeWidths.back() : *width;
}

}  // namespace

Recipe RecipeWithDefaults(Recipe recipe) {
  if (!recipe.has_transform() && !recipe.has_clipping() && !recipe.has_rounding() &&
      !recipe.has_schedule() && recipe.preset() == teq::v1::PRESET_UNSPECIFIED) {
    recipe.set_preset(defaults::kPreset);
  }
  if (recipe.preset() != teq::v1::PRESET_UNSPECIFIED) recipe = OverPreset(recipe);
  SetWeightDefaults(*recipe.mutable_weights());
  if (recipe.has_transform()) SetTransformDefaults(*recipe.mutable_transform());
  if (recipe.has_clipping()) SetClippingDefaults(*recipe.mutable_clipping());
  SetRoundingDefaults(*recipe.mutable_rounding());
  if (NeedsSchedule(recipe)) SetTrainingDefaults(*recipe.mutable_schedule());
  return recipe;
}

bool SearchesClipping(const Recipe& recipe) {
  return recipe.clipping().has_search() || recipe.clipping().learned().start_from_search();
}

bool Calibrates(const Recipe& recipe) {
  const bool starts_at_ones = recipe.transform().teq().init() == teq::v1::INITIALIZATION_ONES;
  return recipe.transform().has_awq() || (recipe.transform().has_teq() && !starts_at_ones) ||
         SearchesClipping(recipe);
}

bool Trains(const Recipe& recipe) {
  return recipe.transform().has_teq() || recipe.clipping().has_learned() ||
         recipe.rounding().has_learned();
}

Schedule ScheduleOf(const Recipe& recipe) {
  if (!recipe.transform().has_teq()) return recipe.schedule();
  const Teq& teq = recipe.transform().teq();
  Schedule schedule;
  schedule.set_objective(teq.objective());
  schedule.set_gradient(teq.gradient());
  schedule.set_block_inputs(teq.block_inputs());
  schedule.set_compute_type(teq.compute_type());
  if (teq.has_steps()) schedule.set_steps(teq.steps());
  if (teq.has_batch_size()) schedule.set_batch_size(teq.batch_size());
  if (teq.has_held_back_fraction()) {
    schedule.set_held_back_fraction(teq.held_back_fraction());
  }
  if (teq.has_end_to_end_steps()) schedule.set_end_to_end_steps(teq.end_to_end_steps());
  if (teq.has_redrawn_fraction()) schedule.set_redrawn_fraction(teq.redrawn_fraction());
  return schedule;
}

LayerGrid GridOf(const Recipe& recipe, std::string_view name) {
  LayerGrid grid{.bits = recipe.weights().has_target_bits()
                             ? ProvisionalBits(recipe.weights().target_bits())
                             : recipe.weights().bits(),
                 .group_size = recipe.weights().group_size(),
                 .symmetric = recipe.weights().symmetric()};
  const auto* change = OverrideOf(recipe, name);
  if (change == nullptr) return grid;
  grid.quantized = !change->skip();
  const Weights& weights = change->weights();
  if (weights.has_bits()) grid.bits = weights.bits();
  if (weights.has_group_size()) grid.group_size = weights.group_size();
  if (weights.has_symmetric()) grid.symmetric = weights.symmetric();
  return grid;
}

bool BitsAreOpen(const Recipe& recipe, std::string_view name) {
  return recipe.weights().has_target_bits() && OverrideOf(recipe, name) == nullptr;
}

}  // namespace teq
