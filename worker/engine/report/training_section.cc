#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/json.h"
#include "worker/engine/report/html.h"
#include "worker/engine/report/plot.h"
#include "worker/engine/report/sections.h"

namespace teq::report {
namespace {

using Key = LegendEntry::Key;
using teq::v1::BlockTraining;
using teq::v1::LossPoint;
using teq::v1::Training;
using Curve = google::protobuf::RepeatedPtrField<LossPoint>;

// Points of a line; a screen has no room for more.
constexpr std::size_t kCurvePoints = 1200;
constexpr std::size_t kPanelPoints = 160;
// Held-back points that are drawn as dots with hints.
constexpr std::size_t kDots = 60;
constexpr int kTableRows = 200;

// A curve of losses, of a whole model or of one block.
struct Losses {
  std::vector<Point> training;
  std::vector<Point> held_back;  // with the start as step 0
};

Losses LossesOf(const Curve& curve, double initial_loss, double unit) {
  Losses losses;
  losses.held_back.push_back({0, initial_loss / unit});
  for (const LossPoint& point : curve) {
    const auto step = static_cast<double>(point.step());
    losses.training.push_back({step, point.loss() / unit});
    if (point.has_held_back_loss()) {
      losses.held_back.push_back({step, point.held_back_loss() / unit});
    }
  }
  return losses;
}

void AddValues(std::span<const Point> points, std::vector<double>& xs, std::vector<double>& ys) {
  for (const Point& point : points) {
    xs.push_back(point.x);
    ys.push_back(point.y);
  }
}

std::string KeptIterate(int best_step) {
  if (best_step < 0) return "plain rounding was kept: no iterate was better";
  if (best_step == 0) return "the start was kept";
  return fmt::format("step {} was kept", best_step);
}

// What was trained on what.
std::string Course(const Training& training) {
  std::string text;
  if (!training.blocks().empty()) {
    text = fmt::format("{} blocks, each by itself", training.blocks_size());
    if (training.loss_curve().empty()) return text;
    text += ", then ";
  }
  return text + fmt::format("{} steps of all blocks together on {}", Count(training.steps()),
                            ShortEnumName(teq::v1::Objective_descriptor(), training.objective()));
}

std::string Facts(const teq::v1::Report& report) {
  const Training& training = report.training();
  const teq::v1::TrainableParameters& trained = training.trainable_parameters();
  std::string text =
      fmt::format("{} scales ({} of the model's parameters)", Count(trained.scales()),
                  Percent(training.trainable_fraction(), 3));
  const std::array others = {std::pair{trained.clipping(), "clipping factors"},
                             std::pair{trained.step_sizes(), "step sizes"},
                             std::pair{trained.rounding(), "rounding offsets"}};
  for (const auto& [count, name] : others) {
    if (count > 0) text += fmt::format(", {} {}", Count(count), name);
  }
  const bool bfloat16 = training.compute_type() == teq::v1::COMPUTE_TYPE_BFLOAT16;
  return Paragraph(fmt::format("{} were trained: {}{}.", text, Course(training),
                               bfloat16 ? ", by matrix products in bfloat16" : ""));
}

Table CurveTable(const Training& training) {
  const Curve& curve = training.loss_curve();
  const int stride = std::max(1, (curve.size() + kTableRows - 1) / kTableRows);
  Table table(stride > 1 ? fmt::format("Losses at every {}th point and where they were measured on "
                                       "the held-back windows; report.json has all points",
                                       stride)
                         : std::string("Losses, by step"),
              {{"Step"}, {"Training"}, {"Held back"}});
  table.AddRow({"0", "–", Significant(training.initial_loss(), 5)});
  for (int i = 0; i < curve.size(); ++i) {
    const LossPoint& point = curve[i];
    const bool is_shown = i % stride == 0 || i + 1 == curve.size() || point.has_held_back_loss();
    if (!is_shown) continue;
    table.AddRow({Count(point.step()), Significant(point.loss(), 5),
                  point.has_held_back_loss() ? Significant(point.held_back_loss(), 5) : "–"});
  }
  return table;
}

std::string CurveFigure(const Training& training) {
  if (training.loss_curve().empty()) return {};
  const Losses losses = LossesOf(training.loss_curve(), training.initial_loss(), 1);
  std::vector<double> steps;
  std::vector<double> values = {training.final_loss()};
  AddValues(losses.training, steps, values);
  AddValues(losses.held_back, steps, values);
  if (training.round_to_nearest_loss() > 0) values.push_back(training.round_to_nearest_loss());
  XyPlot plot({.id = "loss",
               .title = "Loss by training step",
               .description = fmt::format(
                   "Held-back loss: {} at the start, {} in the end; plain rounding {}.",
                   Significant(training.initial_loss()), Significant(training.final_loss()),
                   Significant(training.round_to_nearest_loss())),
               .height = 280,
               .left = 62},
              Axis::Counting(steps), Axis::Fitting(values));
  plot.AddLine(Thinned(losses.training, kCurvePoints), "train");
  if (training.round_to_nearest_loss() > 0) {
    plot.AddLevel(training.round_to_nearest_loss(), "plain", "plain rounding, held back");
  }
  plot.AddLine(Thinned(losses.held_back, kCurvePoints), "result");
  for (const Point& point : Thinned(losses.held_back, kDots)) {
    plot.AddDot(point, "result small",
                fmt::format("step {:.0f}: {} held back", point.x, Significant(point.y)));
  }
  if (training.best_step() >= 0) {
    plot.AddDot(
        {static_cast<double>(training.best_step()), training.final_loss()}, "kept",
        fmt::format("kept: step {}, {}", training.best_step(), Significant(training.final_loss())));
  }
  const LegendEntry legend[] = {{Key::kLine, "train", "training, each step's batch"},
                                {Key::kLine, "result", "held back"},
                                {Key::kLine, "plain", "plain rounding, held back"}};
  return Figure{
      .title = "All blocks together.",
      .caption = fmt::format(
          "Held-back loss from {} to {}, plain rounding {}; {} (ring).",
          Significant(training.initial_loss()), Significant(training.final_loss()),
          Significant(training.round_to_nearest_loss()), KeptIterate(training.best_step())),
      .body_html = Legend(legend) + plot.Svg(),
      .table_html = CurveTable(training).Html()}
      .Html();
}

double UnitOf(const BlockTraining& block) {
  return block.round_to_nearest_loss() > 0 ? block.round_to_nearest_loss()
                                           : std::numeric_limits<double>::quiet_NaN();
}

std::string BlockPanel(const BlockTraining& block, int number, const Axis& steps,
                       const Axis& losses) {
  const double unit = UnitOf(block);
  const Losses curve = LossesOf(block.loss_curve(), block.initial_loss(), unit);
  const double final = block.final_loss() / unit;
  XyPlot plot(
      {.id = fmt::format("loss-{}", number),
       .title = fmt::format("Loss of block {}", block.block()),
       .description = fmt::format(
           "Held-back loss over plain rounding's: {} at the start, {} in the end; {}.",
           Fixed(block.initial_loss() / unit, 3), Fixed(final, 3), KeptIterate(block.best_step())),
       .height = 90,
       .left = 36,
       .right = 8,
       .x_ticks = 3,
       .y_ticks = 3},
      steps, losses);
  plot.AddLevel(1, "plain", "");
  plot.AddLine(Thinned(curve.training, kPanelPoints), "train");
  plot.AddLine(Thinned(curve.held_back, kPanelPoints), "result");
  if (block.best_step() >= 0) {
    plot.AddDot({static_cast<double>(block.best_step()), final}, "kept",
                KeptIterate(block.best_step()));
  }
  return fmt::format("<div class=\"panel\"><h4>Block {} <span>{}</span></h4>{}</div>\n",
                     block.block(), Times(final, 3), plot.Svg());
}

Table BlockTable(const Training& training) {
  Table table("Held-back losses, by block",
              {{"Block"}, {"Start"}, {"Kept"}, {"Plain rounding"}, {"Ratio"}, {"Step kept"}});
  for (const BlockTraining& block : training.blocks()) {
    table.AddRow({Count(block.block()), Significant(block.initial_loss(), 5),
                  Significant(block.final_loss(), 5), Significant(block.round_to_nearest_loss(), 5),
                  Fixed(block.final_loss() / UnitOf(block), 4),
                  block.best_step() < 0 ? "plain rounding" : Count(block.best_step())});
  }
  return table;
}

std::string BlockFigure(const Training& training) {
  if (training.blocks().empty()) return {};
  std::vector<double> steps = {0};
  std::vector<double> losses = {1};
  for (const BlockTraining& block : training.blocks()) {
    const Losses curve = LossesOf(block.loss_curve(), block.initial_loss(), UnitOf(block));
    AddValues(Thinned(curve.training, kPanelPoints), steps, losses);
    AddValues(curve.held_back, steps, losses);
  }
  const Axis x = Axis::Counting(steps);
  const Axis y = Axis::Fitting(losses);
  std::string panels;
  for (int i = 0; i < training.blocks_size(); ++i) {
    panels += BlockPanel(training.blocks(i), i, x, y);
  }
  const LegendEntry legend[] = {{Key::kLine, "train", "training, each step's batch"},
                                {Key::kLine, "result", "held back"},
                                {Key::kLine, "plain", "plain rounding = 1"}};
  return Figure{.title = "Block by block.",
                .caption =
                    "Mean squared error of each block's output over that of plain "
                    "rounding; all panels share their axes. At a panel's head, and as a "
                    "ring, what was kept.",
                .body_html = Legend(legend) + Panels(panels),
                .table_html = BlockTable(training).Html()}
      .Html();
}

}  // namespace

std::string TrainingSection(const teq::v1::Report& report) {
  if (!report.has_training()) return {};
  return Section("training", "Training",
                 Facts(report) + CurveFigure(report.training()) + BlockFigure(report.training()));
}

}  // namespace teq::report
