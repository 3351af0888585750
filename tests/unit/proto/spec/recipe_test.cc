#include "proto/spec/recipe.h"

#include <functional>

#include "gtest/gtest.h"
#include "proto/spec/presets.h"
#include "proto/spec/validate.h"

namespace teq {
namespace {

using teq::v1::Recipe;
using teq::v1::Schedule;

Recipe Preset(teq::v1::Preset preset) {
  Recipe recipe;
  recipe.set_preset(preset);
  return recipe;
}

// Whether everything of `part` stands in `whole` with the same value.
bool Holds(const Recipe& whole, const Recipe& part) {
  Recipe merged = whole;
  merged.MergeFrom(part);
  return Digest(merged) == Digest(whole);
}

// ---- Presets ----

TEST(RecipeWithDefaultsTest, EmptyRecipeIsBalancedAtFourBits) {
  const Recipe recipe = RecipeWithDefaults({});
  EXPECT_EQ(recipe.preset(), teq::v1::PRESET_BALANCED);
  EXPECT_TRUE(Holds(recipe, PresetRecipe(teq::v1::PRESET_BALANCED)));
  EXPECT_EQ(recipe.weights().bits(), 4);
  EXPECT_EQ(recipe.weights().group_size(), 128);
  EXPECT_TRUE(recipe.weights().has_symmetric());
  EXPECT_FALSE(recipe.weights().symmetric());
}

TEST(RecipeWithDefaultsTest, RecipeWithOnlyWeightsAndOverridesIsBalanced) {
  Recipe recipe;
  recipe.mutable_weights()->set_bits(3);
  recipe.add_overrides()->set_match("a");
  recipe = RecipeWithDefaults(recipe);
  EXPECT_EQ(recipe.preset(), teq::v1::PRESET_BALANCED);
  EXPECT_EQ(recipe.weights().bits(), 3);
  EXPECT_EQ(recipe.weights().group_size(), 128);
  EXPECT_EQ(recipe.overrides_size(), 1);
}

TEST(RecipeWithDefaultsTest, NamedPresetIsWrittenOut) {
  for (const PresetText& text : Presets()) {
    const Recipe recipe = RecipeWithDefaults(Preset(text.preset));
    EXPECT_EQ(recipe.preset(), text.preset);
    EXPECT_TRUE(Holds(recipe, PresetRecipe(text.preset)));
  }
}

TEST(RecipeWithDefaultsTest, FieldBesideAPresetOverridesItAndTheRestStays) {
  Recipe recipe = Preset(teq::v1::PRESET_BEST);
  recipe.mutable_transform()->mutable_teq()->set_steps(7);
  recipe = RecipeWithDefaults(recipe);
  const auto& preset = PresetRecipe(teq::v1::PRESET_BEST).transform().teq();
  EXPECT_EQ(recipe.transform().teq().steps(), 7);
  EXPECT_EQ(recipe.transform().teq().end_to_end_steps(), preset.end_to_end_steps());
  EXPECT_EQ(recipe.transform().teq().objective(), preset.objective());
  EXPECT_EQ(recipe.clipping().kind_case(),
            PresetRecipe(teq::v1::PRESET_BEST).clipping().kind_case());
}

TEST(RecipeWithDefaultsTest, KindBesideAPresetReplacesThePresets) {
  Recipe recipe = Preset(teq::v1::PRESET_BALANCED);
  recipe.mutable_rounding()->mutable_gptq()->set_damping(0.1);
  recipe.mutable_clipping()->mutable_search();
  recipe = RecipeWithDefaults(recipe);
  EXPECT_TRUE(recipe.transform().has_teq());
  EXPECT_TRUE(recipe.clipping().has_search());
  EXPECT_EQ(recipe.rounding().gptq().damping(), 0.1);
}

TEST(RecipeWithDefaultsTest, EmptyPartBesideAPresetTurnsItOff) {
  Recipe recipe = Preset(teq::v1::PRESET_BALANCED);
  recipe.mutable_transform();
  recipe.mutable_clipping();
  recipe.mutable_rounding();
  recipe = RecipeWithDefaults(recipe);
  EXPECT_EQ(recipe.transform().kind_case(), teq::v1::Transform::KIND_NOT_SET);
  EXPECT_EQ(recipe.clipping().kind_case(), teq::v1::Clipping::KIND_NOT_SET);
  EXPECT_TRUE(recipe.rounding().has_nearest());
  EXPECT_FALSE(Trains(recipe));
}

TEST(RecipeWithDefaultsTest, WhatAPresetTrainsKeepsItsScheduleWithoutItsTeq) {
  Recipe recipe = Preset(teq::v1::PRESET_BALANCED);
  recipe.mutable_transform()->mutable_awq();
  recipe.mutable_schedule()->set_batch_size(3);
  recipe = RecipeWithDefaults(recipe);
  const Schedule preset = ScheduleOf(PresetRecipe(teq::v1::PRESET_BALANCED));
  EXPECT_EQ(recipe.schedule().steps(), preset.steps());
  EXPECT_EQ(recipe.schedule().objective(), preset.objective());
  EXPECT_EQ(recipe.schedule().end_to_end_steps(), preset.end_to_end_steps());
  EXPECT_EQ(recipe.schedule().batch_size(), 3);
  EXPECT_EQ(recipe.schedule().gradient(), teq::v1::GRADIENT_FULL);
}

// ---- Without a preset ----

TEST(RecipeWithDefaultsTest, WhatIsAbsentWithoutAPresetIsOff) {
  Recipe rounding;
  rounding.mutable_rounding()->mutable_nearest();
  rounding = RecipeWithDefaults(rounding);
  EXPECT_EQ(rounding.preset(), teq::v1::PRESET_UNSPECIFIED);
  EXPECT_FALSE(rounding.has_transform());
  EXPECT_FALSE(rounding.has_clipping());
  EXPECT_FALSE(rounding.has_schedule());

  Recipe clipping;
  clipping.mutable_clipping()->mutable_search();
  clipping = RecipeWithDefaults(clipping);
  EXPECT_FALSE(clipping.has_transform());
  EXPECT_TRUE(clipping.rounding().has_nearest());

  Recipe off;
  off.mutable_transform();
  off = RecipeWithDefaults(off);
  EXPECT_EQ(off.preset(), teq::v1::PRESET_UNSPECIFIED);
  EXPECT_TRUE(off.rounding().has_nearest());
}

TEST(RecipeWithDefaultsTest, EveryFieldHasTheDefaultThatRecipeProtoStates) {
  Recipe recipe;
  recipe.mutable_transform()->mutable_teq();
  recipe.mutable_clipping()->mutable_learned();
  recipe.mutable_rounding()->mutable_learned();
  recipe = RecipeWithDefaults(recipe);
  const auto& teq = recipe.transform().teq();
  EXPECT_EQ(teq.steps(), 200);
  EXPECT_EQ(teq.batch_size(), 4);
  EXPECT_EQ(teq.learning_rate(), 0.003);
  EXPECT_EQ(teq.objective(), teq::v1::OBJECTIVE_KL);
  EXPECT_EQ(teq.init(), teq::v1::INITIALIZATION_AWQ);
  EXPECT_EQ(teq.gradient(), teq::v1::GRADIENT_FULL);
  EXPECT_EQ(teq.held_back_fraction(), 0.125);
  EXPECT_EQ(teq.block_inputs(), teq::v1::BLOCK_INPUTS_QUANTIZED);
  EXPECT_TRUE(teq.has_end_to_end_steps());
  EXPECT_EQ(teq.end_to_end_steps(), 0);
  EXPECT_EQ(teq.compute_type(), teq::v1::COMPUTE_TYPE_FLOAT32);
  EXPECT_EQ(recipe.clipping().learned().learning_rate(), 0.001);
  EXPECT_TRUE(recipe.clipping().learned().start_from_search());
  EXPECT_EQ(recipe.rounding().learned().learning_rate(), 0.005);
  EXPECT_EQ(recipe.rounding().learned().optimizer(), teq::v1::OPTIMIZER_ADAM);
  EXPECT_FALSE(recipe.has_schedule());

  Recipe gptq;
  gptq.mutable_rounding()->mutable_gptq();
  gptq = RecipeWithDefaults(gptq);
  EXPECT_EQ(gptq.rounding().gptq().damping(), 0.01);
  EXPECT_EQ(gptq.rounding().gptq().group_range(), teq::v1::GROUP_RANGE_AFTER_UPDATE);
  EXPECT_TRUE(gptq.rounding().gptq().order_by_activation());
}

TEST(RecipeWithDefaultsTest, WhatIsGivenIsKept) {
  Recipe recipe;
  recipe.mutable_transform()->mutable_teq()->set_steps(0);
  recipe.mutable_clipping()->mutable_learned()->set_start_from_search(false);
  recipe.mutable_rounding()->mutable_gptq()->set_order_by_activation(false);
  recipe = RecipeWithDefaults(recipe);
  EXPECT_EQ(recipe.transform().teq().steps(), 0);
  EXPECT_FALSE(recipe.clipping().learned().start_from_search());
  EXPECT_FALSE(recipe.rounding().gptq().order_by_activation());
}

TEST(RecipeWithDefaultsTest, TargetBitsLeaveBitsUnset) {
  Recipe recipe;
  recipe.mutable_weights()->set_target_bits(3.5);
  recipe = RecipeWithDefaults(recipe);
  EXPECT_FALSE(recipe.weights().has_bits());
  EXPECT_EQ(recipe.weights().group_size(), 128);
}

TEST(RecipeWithDefaultsTest, OverridesKeepWhatTheyLeaveOpen) {
  Recipe recipe;
  recipe.add_overrides()->mutable_weights()->set_bits(8);
  EXPECT_FALSE(RecipeWithDefaults(recipe).overrides(0).weights().has_group_size());
}

// ---- Training ----

TEST(ScheduleOfTest, TeqsOwnFieldsAreTheSchedule) {
  Recipe recipe;
  auto& teq = *recipe.mutable_transform()->mutable_teq();
  teq.set_steps(11);
  teq.set_batch_size(12);
  teq.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  teq.set_gradient(teq::v1::GRADIENT_STRAIGHT_THROUGH);
  teq.set_held_back_fraction(0.25);
  teq.set_block_inputs(teq::v1::BLOCK_INPUTS_FLOAT);
  teq.set_end_to_end_steps(13);
  teq.set_compute_type(teq::v1::COMPUTE_TYPE_BFLOAT16);
  teq.set_redrawn_fraction(0.75);
  const Schedule schedule = ScheduleOf(RecipeWithDefaults(recipe));
  EXPECT_EQ(schedule.steps(), 11);
  EXPECT_EQ(schedule.batch_size(), 12);
  EXPECT_EQ(schedule.objective(), teq::v1::OBJECTIVE_BLOCK_MSE);
  EXPECT_EQ(schedule.gradient(), teq::v1::GRADIENT_STRAIGHT_THROUGH);
  EXPECT_EQ(schedule.held_back_fraction(), 0.25);
  EXPECT_EQ(schedule.block_inputs(), teq::v1::BLOCK_INPUTS_FLOAT);
  EXPECT_EQ(schedule.end_to_end_steps(), 13);
  EXPECT_EQ(schedule.compute_type(), teq::v1::COMPUTE_TYPE_BFLOAT16);
  EXPECT_EQ(schedule.redrawn_fraction(), 0.75);
}

TEST(ScheduleOfTest, LearnedClippingOrRoundingWithoutTeqHasTheRecipesSchedule) {
  Recipe clipping;
  clipping.mutable_clipping()->mutable_learned();
  clipping.mutable_schedule()->set_steps(11);
  clipping = RecipeWithDefaults(clipping);
  EXPECT_EQ(ScheduleOf(clipping).steps(), 11);
  EXPECT_EQ(ScheduleOf(clipping).batch_size(), 4);
  EXPECT_EQ(ScheduleOf(clipping).objective(), teq::v1::OBJECTIVE_KL);
  EXPECT_EQ(ScheduleOf(clipping).held_back_fraction(), 0.125);

  Recipe rounding;
  rounding.mutable_transform()->mutable_awq();
  rounding.mutable_rounding()->mutable_learned();
  EXPECT_EQ(ScheduleOf(RecipeWithDefaults(rounding)).steps(), 200);
}

TEST(ScheduleOfTest, RecipeThatTrainsNothingHasNone) {
  const Recipe fast = RecipeWithDefaults(Preset(teq::v1::PRESET_FAST));
  EXPECT_FALSE(fast.has_schedule());
  EXPECT_EQ(ScheduleOf(fast).ByteSizeLong(), 0U);
}

TEST(TrainsTest, TeqLearnedClippingOrLearnedRoundingDo) {
  const auto trains = [](const std::function<void(Recipe&)>& change) {
    Recipe recipe;
    change(recipe);
    return Trains(recipe);
  };
  EXPECT_TRUE(trains([](Recipe& r) { r.mutable_transform()->mutable_teq(); }));
  EXPECT_TRUE(trains([](Recipe& r) { r.mutable_clipping()->mutable_learned(); }));
  EXPECT_TRUE(trains([](Recipe& r) { r.mutable_rounding()->mutable_learned(); }));
  EXPECT_FALSE(trains([](Recipe& r) {
    r.mutable_transform()->mutable_awq();
    r.mutable_clipping()->mutable_search();
    r.mutable_rounding()->mutable_gptq();
  }));
}

TEST(CalibratesTest, WhateverReadsTheTextsStatisticsDoes) {
  const auto calibrates = [](const std::function<void(Recipe&)>& change) {
    Recipe recipe;
    change(recipe);
    return Calibrates(recipe);
  };
  const auto starting_at = [&](teq::v1::Initialization init) {
    return calibrates([&](Recipe& r) { r.mutable_transform()->mutable_teq()->set_init(init); });
  };
  EXPECT_TRUE(calibrates([](Recipe& r) { r.mutable_transform()->mutable_awq(); }));
  EXPECT_TRUE(starting_at(teq::v1::INITIALIZATION_AWQ));
  EXPECT_TRUE(starting_at(teq::v1::INITIALIZATION_WEIGHT_NORM));
  EXPECT_FALSE(starting_at(teq::v1::INITIALIZATION_ONES));
  EXPECT_TRUE(calibrates([](Recipe& r) { r.mutable_clipping()->mutable_search(); }));
  EXPECT_TRUE(calibrates(
      [](Recipe& r) { r.mutable_clipping()->mutable_learned()->set_start_from_search(true); }));
  EXPECT_FALSE(calibrates([](Recipe& r) { r.mutable_clipping()->mutable_learned(); }));
  EXPECT_FALSE(calibrates([](Recipe& r) { r.mutable_clipping(); }));
  EXPECT_FALSE(calibrates([](Recipe& r) { r.mutable_rounding()->mutable_gptq(); }));
}

// ---- Grids ----

TEST(GridOfTest, LastMatchingOverrideWinsAndTheRestIsTheRecipes) {
  Recipe recipe = RecipeWithDefaults({});
  auto* down = recipe.add_overrides();
  down->set_match("re:.*down_proj");
  down->mutable_weights()->set_bits(8);
  down->mutable_weights()->set_symmetric(true);
  auto* first = recipe.add_overrides();
  first->set_match("model.layers.0.mlp.down_proj");
  first->mutable_weights()->set_group_size(-1);
  auto* lm = recipe.add_overrides();
  lm->set_match("re:model\\.layers\\.7\\..*");
  lm->set_skip(true);

  const LayerGrid plain = GridOf(recipe, "model.layers.1.mlp.up_proj");
  EXPECT_TRUE(plain.quantized);
  EXPECT_EQ(plain.bits, 4);
  EXPECT_EQ(plain.group_size, 128);
  EXPECT_FALSE(plain.symmetric);

  const LayerGrid eight = GridOf(recipe, "model.layers.1.mlp.down_proj");
  EXPECT_EQ(eight.bits, 8);
  EXPECT_EQ(eight.group_size, 128);
  EXPECT_TRUE(eight.symmetric);

  const LayerGrid whole = GridOf(recipe, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(whole.bits, 4);
  EXPECT_EQ(whole.group_size, -1);
  EXPECT_FALSE(whole.symmetric);

  EXPECT_FALSE(GridOf(recipe, "model.layers.7.mlp.down_proj").quantized);
}

TEST(GridOfTest, TargetBitsAreRoundedUpToAWidthUntilTheyAreChosen) {
  const auto bits = [](double target) {
    Recipe recipe;
    recipe.mutable_weights()->set_target_bits(target);
    return GridOf(RecipeWithDefaults(recipe), "a").bits;
  };
  EXPECT_EQ(bits(2), 2);
  EXPECT_EQ(bits(2.1), 3);
  EXPECT_EQ(bits(3.5), 4);
  EXPECT_EQ(bits(4.01), 8);
  EXPECT_EQ(bits(8), 8);
}

TEST(BitsAreOpenTest, WhereTargetBitsDecideAndNoOverrideNamesTheLayer) {
  Recipe recipe;
  recipe.mutable_weights()->set_target_bits(3.5);
  auto* change = recipe.add_overrides();
  change->set_match("re:.*down_proj");
  change->mutable_weights()->set_bits(8);
  recipe = RecipeWithDefaults(recipe);
  EXPECT_TRUE(BitsAreOpen(recipe, "model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(BitsAreOpen(recipe, "model.layers.0.mlp.down_proj"));
  EXPECT_EQ(GridOf(recipe, "model.layers.0.mlp.down_proj").bits, 8);
  EXPECT_FALSE(BitsAreOpen(RecipeWithDefaults({}), "model.layers.0.mlp.up_proj"));
}

}  // namespace
}  // namespace teq
