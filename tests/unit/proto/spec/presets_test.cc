#include "proto/spec/presets.h"

#include <set>
#include <string>

#include "gtest/gtest.h"
#include "proto/spec/json.h"
#include "proto/spec/recipe.h"
#include "proto/spec/validate.h"

namespace teq {
namespace {

using teq::v1::Preset;
using teq::v1::Recipe;

TEST(PresetsTest, EveryNameOfTheApiHasOneTextAndASummaryOfOneLine) {
  std::set<Preset> named;
  for (const PresetText& text : Presets()) {
    EXPECT_TRUE(named.insert(text.preset).second);
    EXPECT_FALSE(text.summary.empty());
    EXPECT_EQ(text.summary.find('\n'), std::string_view::npos);
  }
  const auto* type = teq::v1::Preset_descriptor();
  EXPECT_EQ(static_cast<int>(named.size()), type->value_count() - 1);
  EXPECT_FALSE(named.contains(teq::v1::PRESET_UNSPECIFIED));
}

TEST(PresetsTest, EachIsReadAndMakesAValidJobAndLeavesTheGridToTheUser) {
  for (const PresetText& text : Presets()) {
    const std::string name = ShortEnumName(teq::v1::Preset_descriptor(), text.preset);
    const Recipe& recipe = PresetRecipe(text.preset);
    EXPECT_FALSE(recipe.has_weights()) << name;
    EXPECT_EQ(recipe.overrides_size(), 0) << name;
    EXPECT_EQ(recipe.preset(), teq::v1::PRESET_UNSPECIFIED) << name;
    EXPECT_TRUE(recipe.has_transform() || recipe.has_rounding()) << name;

    teq::v1::JobSpec spec;
    spec.mutable_model()->set_uri("file:///m");
    spec.mutable_calibration()->set_uri("file:///c");
    spec.mutable_output()->set_uri("file:///o");
    spec.mutable_recipe()->set_preset(text.preset);
    spec = WithDefaults(spec);
    EXPECT_TRUE(ValidateSpec(spec).ok()) << name << ValidateSpec(spec);
  }
}

TEST(PresetsTest, FastTrainsNothingAndTheOthersTrainMoreAndMore) {
  EXPECT_FALSE(Trains(PresetRecipe(teq::v1::PRESET_FAST)));
  const auto balanced = ScheduleOf(PresetRecipe(teq::v1::PRESET_BALANCED));
  const auto best = ScheduleOf(PresetRecipe(teq::v1::PRESET_BEST));
  EXPECT_GT(balanced.steps(), 0);
  EXPECT_GT(best.steps(), balanced.steps());
  EXPECT_GE(best.end_to_end_steps(), balanced.end_to_end_steps());
}

TEST(PresetsTest, NoPresetIsEmpty) {
  EXPECT_EQ(PresetRecipe(teq::v1::PRESET_UNSPECIFIED).ByteSizeLong(), 0U);
  EXPECT_EQ(PresetRecipe(static_cast<Preset>(99)).ByteSizeLong(), 0U);
}

}  // namespace
}  // namespace teq
