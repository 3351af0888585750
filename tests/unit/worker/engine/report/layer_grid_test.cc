#include "worker/engine/report/layer_grid.h"

#include <gmock/gmock.h>

#include <cmath>

namespace teq::report {
namespace {

using ::testing::ElementsAre;

TEST(PlaceOfTest, FirstNumberIsTheBlockAndLaterOnesAreExperts) {
  const ModulePlace place = PlaceOf("model.layers.3.mlp.experts.7.w1");
  EXPECT_EQ(place.block, 3);
  EXPECT_EQ(place.kind, "mlp.experts.*.w1");
}

TEST(PlaceOfTest, NamesWithoutABlockAreAKindOfTheirOwn) {
  for (const char* name : {"lm_head", "", "layers.3", "layers.3x.w", "layers.-3.w", "..",
                           "layers.99999999999999999999.w"}) {
    EXPECT_EQ(PlaceOf(name).block, std::nullopt) << name;
    EXPECT_EQ(PlaceOf(name).kind, name);
  }
}

TEST(ShortNamesTest, AreAsShortAsTellsThemApart) {
  EXPECT_THAT(ShortNames(std::vector<std::string>{"attn.c_attn", "attn.c_proj", "mlp.c_proj"}),
              ElementsAre("c_attn", "attn.c_proj", "mlp.c_proj"));
}

TEST(ShortNamesTest, LeaveOutAnEndingThatAllShare) {
  EXPECT_THAT(ShortNames(std::vector<std::string>{"self_attn.q_proj", "mlp.gate_proj"}),
              ElementsAre("q", "gate"));
}

TEST(ShortNamesTest, AreCutAtACharacter) {
  EXPECT_THAT(ShortNames(std::vector<std::string>{"ääääääääääääääääääääää"}),
              ElementsAre("äääääääääääääääää…"));
}

teq::v1::LayerReport& AddLayer(teq::v1::Report& report, const std::string& name, double ratio) {
  teq::v1::LayerReport& layer = *report.add_layers();
  layer.set_name(name);
  layer.set_output_mse(ratio);
  layer.set_output_mse_round_to_nearest(1);
  return layer;
}

TEST(LayerGridTest, IsBlocksByKindsWithTheGroupsThatScaleTheirInputs) {
  teq::v1::Report report;
  AddLayer(report, "h.0.fc1", 0.5);
  AddLayer(report, "h.0.fc2", 0.75);
  AddLayer(report, "h.1.fc2", 0.25);
  teq::v1::ScaleGroupReport& group = *report.add_scale_groups();
  group.set_producer("h.1.fc1");
  group.add_consumers("h.1.fc2");
  group.set_min(0.5);
  group.set_max(4);
  const LayerGrid grid(report);
  EXPECT_THAT(grid.kinds(), ElementsAre("fc1", "fc2"));
  ASSERT_EQ(grid.rows().size(), 2);
  EXPECT_EQ(grid.rows()[1].name, "1");
  EXPECT_TRUE(grid.rows()[1].cells[0].layers.empty());
  EXPECT_TRUE(std::isnan(ErrorRatio(grid.rows()[1].cells[0])));
  EXPECT_DOUBLE_EQ(ErrorRatio(grid.rows()[0].cells[1]), 0.75);
  EXPECT_DOUBLE_EQ(ErrorRatio(grid.rows()[1].cells[1]), 0.25);
  EXPECT_DOUBLE_EQ(Octaves(grid.rows()[1].cells[1]), 3);
  EXPECT_TRUE(std::isnan(Octaves(grid.rows()[0].cells[1])));
}

TEST(LayerGridTest, ExpertsShareACellByTheirGeometricMean) {
  teq::v1::Report report;
  AddLayer(report, "h.0.experts.0.w1", 0.25);
  AddLayer(report, "h.0.experts.1.w1", 1);
  const LayerGrid grid(report);
  ASSERT_EQ(grid.kinds().size(), 1);
  EXPECT_DOUBLE_EQ(ErrorRatio(grid.rows()[0].cells[0]), 0.5);
}

TEST(LayerGridTest, ManyForeignKindsShareTheLastColumn) {
  teq::v1::Report report;
  for (int i = 0; i < 500; ++i) AddLayer(report, "layer_" + std::to_string(i), 1);
  const LayerGrid grid(report);
  EXPECT_EQ(grid.kinds().size(), LayerGrid::kMaxKinds);
  ASSERT_EQ(grid.rows().size(), 1);
  EXPECT_EQ(grid.rows()[0].name, "other");
  EXPECT_EQ(grid.rows()[0].cells.back().layers.size(), 500 - LayerGrid::kMaxKinds + 1);
}

}  // namespace
}  // namespace teq::report
