#include "worker/engine/report/page.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/objects/file.h"
#include "fmt/format.h"

namespace teq::report {
namespace {

using teq::v1::Report;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;
using ::testing::StartsWith;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

teq::v1::LayerReport& AddLayer(Report& report, const std::string& name, double error,
                               double plain) {
  teq::v1::LayerReport& layer = *report.add_layers();
  layer.set_name(name);
  layer.set_bits(3);
  layer.set_group_size(32);
  layer.set_output_mse(error);
  layer.set_output_mse_round_to_nearest(plain);
  return layer;
}

void AddGroup(Report& report, const std::string& producer, const std::string& consumer, double min,
              double max) {
  teq::v1::ScaleGroupReport& group = *report.add_scale_groups();
  group.set_producer(producer);
  group.add_consumers(consumer);
  group.set_min(min);
  group.set_median(1);
  group.set_max(max);
  for (int bin = 0; bin < 16; ++bin) group.add_histogram(bin == 7 || bin == 8 ? 64 : 0);
}

void AddCurve(google::protobuf::RepeatedPtrField<teq::v1::LossPoint>& curve, int steps) {
  for (int step = 1; step <= steps; ++step) {
    teq::v1::LossPoint& point = *curve.Add();
    point.set_step(step);
    point.set_loss(1.0 / step);
    if (step % 10 == 0) point.set_held_back_loss(1.1 / step);
  }
}

void AddTraining(Report& report, int steps) {
  teq::v1::Training& training = *report.mutable_training();
  training.set_steps(steps);
  training.set_objective(teq::v1::OBJECTIVE_KL);
  training.set_initial_loss(2);
  training.set_final_loss(1.1 / steps);
  training.set_round_to_nearest_loss(3);
  training.set_best_step(steps);
  AddCurve(*training.mutable_loss_curve(), steps);
}

// A report with something in every field that the page shows.
Report FullReport() {
  Report report;
  report.set_job("projects/p/jobs/j");
  teq::v1::Perplexity& text = *report.add_perplexity();
  text.set_dataset("file:///data/text.txt");
  text.set_full_precision(10);
  text.set_round_to_nearest(12);
  text.set_quantized(10.5);
  text.set_delta(0.5);
  text.set_standard_error(0.25);
  text.set_delta_standard_error(0.0625);
  text.set_round_to_nearest_difference_standard_error(0.125);
  text.set_kl_divergence(0.0321);
  text.set_top1_agreement(0.875);
  text.set_tokens(46665);
  teq::v1::TaskResult& task = *report.add_tasks();
  task.set_task("file:///data/choices.jsonl");
  task.set_examples(1000);
  task.set_full_precision_accuracy(0.75);
  task.set_quantized_accuracy(0.7375);
  task.set_standard_error(0.0139);
  task.set_difference_standard_error(0.0021);
  AddTraining(report, 40);
  for (int number = 0; number < 2; ++number) {
    teq::v1::BlockTraining& block = *report.mutable_training()->add_blocks();
    block.set_block(number);
    block.set_initial_loss(0.8);
    block.set_final_loss(0.5);
    block.set_round_to_nearest_loss(1);
    block.set_best_step(20);
    AddCurve(*block.mutable_loss_curve(), 20);
    const std::string prefix = fmt::format("model.layers.{}.mlp.", number);
    AddLayer(report, prefix + "up_proj", 0.02, 0.02).set_changed_codes(0.125);
    teq::v1::LayerReport& down = AddLayer(report, prefix + "down_proj", 0.01, 0.04);
    down.mutable_clipping()->set_low_mean(0.9);
    down.mutable_clipping()->set_high_mean(0.95);
    down.mutable_clipping()->set_min(0.7);
    down.mutable_clipping()->set_max(1);
    for (const int bits : {2, 3, 4, 8}) {
      teq::v1::BitsSensitivity& width = *down.add_sensitivity();
      width.set_bits(bits);
      width.set_error(1.0 / bits);
    }
    AddGroup(report, prefix + "up_proj", prefix + "down_proj", 0.25, 4);
  }
  report.mutable_layers(3)->set_bits(8);
  (*report.mutable_timing_seconds())["FETCH"] = 1.5;
  (*report.mutable_timing_seconds())["VERIFY"] = 2.25;
  report.mutable_inputs()->set_model_uri("file:///models/llama/");
  report.mutable_inputs()->set_model_sha256("0aa6a192");
  report.mutable_inputs()->add_task_uris("file:///data/questions.jsonl");
  report.mutable_inputs()->add_task_sha256("5d2c88f0");
  report.mutable_inputs()->set_matrix_products("OpenBLAS 0.3.21, Haswell");
  report.mutable_recipe()->mutable_weights()->set_bits(3);
  report.mutable_recipe()->mutable_transform()->mutable_teq()->set_steps(40);
  teq::v1::Artifact& artifact = *report.add_artifacts();
  artifact.set_format("GPTQ");
  artifact.set_path("/out/gptq");
  artifact.set_exact(true);
  artifact.add_perplexity()->set_dataset(report.perplexity(0).dataset());
  artifact.mutable_perplexity(0)->set_value(12.3456);
  artifact.set_sha256("39fbc804");
  report.add_notes("214 groups have no negative weight");
  return report;
}

// Whether Python's XML parser takes the page.
bool IsWellFormed(const std::string& page) {
  std::string file = std::filesystem::temp_directory_path() / "teq-page-XXXXXX";
  if (::mkdtemp(file.data()) == nullptr) return false;
  const std::filesystem::path directory = file;
  const std::filesystem::path path = directory / "page.html";
  EXPECT_TRUE(objects::WriteFileAtomically(path, page).ok());
  const std::string command =
      fmt::format("python3 -c 'import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])' {}",
                  path.string());
  const int code = std::system(command.c_str());
  std::filesystem::remove_all(directory);
  return code == 0;
}

// What stands between the tags, one space for each run of tags and white space.
std::string TextOf(std::string_view page) {
  constexpr std::string_view kNoBreak = "\xC2\xA0";
  std::string text;
  bool in_tag = false;
  while (!page.empty()) {
    const bool is_no_break = page.starts_with(kNoBreak);
    const char c = page.front();
    in_tag = in_tag || c == '<';
    if (in_tag || is_no_break || c == ' ' || c == '\n') {
      if (!text.ends_with(' ')) text += ' ';
    } else {
      text += c;
    }
    in_tag = in_tag && c != '>';
    page.remove_prefix(is_no_break ? kNoBreak.size() : 1);
  }
  return text;
}

// Names and values of all attributes, in the page's order.
std::vector<std::pair<std::string, std::string>> AttributesOf(const std::string& page) {
  std::vector<std::pair<std::string, std::string>> attributes;
  for (std::size_t mark = page.find("=\""); mark != std::string::npos;) {
    const std::size_t name = page.find_last_of(" \n", mark) + 1;
    const std::size_t end = page.find('"', mark + 2);
    attributes.emplace_back(page.substr(name, mark - name), page.substr(mark + 2, end - mark - 2));
    mark = page.find("=\"", end);
  }
  return attributes;
}

bool IsPlace(const std::string& attribute) {
  static const std::set<std::string> kPlaces = {"cx", "cy", "x",  "y", "x1",    "x2",
                                                "y1", "y2", "dx", "d", "width", "style"};
  return kPlaces.contains(attribute);
}

TEST(ReportPageTest, FullReportIsWellFormed) {
  EXPECT_TRUE(IsWellFormed(ReportPage(FullReport())));
}

TEST(ReportPageTest, EmptyReportIsAWellFormedPageWithoutSections) {
  const std::string page = ReportPage(Report());
  EXPECT_TRUE(IsWellFormed(page));
  EXPECT_THAT(page, Not(HasSubstr("<section")));
}

TEST(ReportPageTest, PerplexitiesStandWithTheirErrorsAndTheShareOfTheGapThatIsClosed) {
  const std::string text = TextOf(ReportPage(FullReport()));
  EXPECT_THAT(text, HasSubstr("Quantized 10.5000 ± 0.2500"));
  EXPECT_THAT(text, HasSubstr("Float 10.0000"));
  EXPECT_THAT(text, HasSubstr("Plain rounding 12.0000"));
  EXPECT_THAT(text, HasSubstr("Quantized − float +0.5000 ± 0.0625"));
  EXPECT_THAT(text, HasSubstr("Quantized − plain rounding −1.5000 ± 0.1250"));
  // (12 - 10.5) / (12 - 10), and 0.125 / (12 - 10).
  EXPECT_THAT(text, HasSubstr("Share of the gap closed 75.0 % ± 6.2 %, of 2.0000"));
  EXPECT_THAT(text, HasSubstr("0.03210 nats per token (KL)"));
  EXPECT_THAT(text, HasSubstr("Same most likely token 87.50 % of 46,665"));
}

TEST(ReportPageTest, TasksStandWithTheirErrors) {
  EXPECT_THAT(TextOf(ReportPage(FullReport())),
              HasSubstr("file:///data/choices.jsonl 1,000 75.00 % 73.75 % 1.39 % −1.25 % 0.21 %"));
}

TEST(ReportPageTest, ReadingNamesTheFurthestScalesTheGreatestGainsAndTheLosses) {
  Report report = FullReport();
  AddGroup(report, "model.layers.1.input_layernorm", "model.layers.1.self_attn.q_proj", 0.125, 4);
  AddLayer(report, "model.layers.1.self_attn.q_proj", 0.06, 0.04);
  const std::string text = TextOf(ReportPage(report));
  EXPECT_THAT(text, HasSubstr("The scales travelled furthest behind "
                              "model.layers.1.input_layernorm (5.00 octaves, from 0.125 to 4.00), "
                              "model.layers.0.mlp.up_proj (4.00 octaves"));
  EXPECT_THAT(text, HasSubstr("Most was gained in model.layers.0.mlp.down_proj (× 0.25), "
                              "model.layers.1.mlp.down_proj (× 0.25), as factors"));
  EXPECT_THAT(text, HasSubstr("1 of 5 layers have a larger error than with plain rounding."));
}

TEST(ReportPageTest, FurtherTravelWithGreaterGainIsARankCorrelationOfOne) {
  Report report;
  for (int number = 0; number < 8; ++number) {
    const std::string prefix = fmt::format("h.{}.", number);
    AddLayer(report, prefix + "fc2", 1.0 / (number + 2), 1);
    AddGroup(report, prefix + "fc1", prefix + "fc2", 1, number + 2);
  }
  EXPECT_THAT(TextOf(ReportPage(report)),
              HasSubstr("further gained more: rank correlation 1.00 over 8 layers."));
}

TEST(ReportPageTest, EveryLayerIsInATableWithItsErrors) {
  EXPECT_THAT(TextOf(ReportPage(FullReport())),
              HasSubstr("model.layers.1.mlp.down_proj 0.01000 0.04000 0.2500"));
}

TEST(ReportPageTest, RecipeNotesInputsTimesAndArtifactsAreShown) {
  const std::string text = TextOf(ReportPage(FullReport()));
  for (const char* part :
       {"transform: teq: steps: 40", "214 groups have no negative weight",
        "Model&#39;s sha256 0aa6a192", "Its sha256 5d2c88f0",
        "Matrix products OpenBLAS 0.3.21, Haswell", "VERIFY 2.250", "GPTQ /out/gptq 0 12.3456"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(ReportPageTest, ForeignTextIsEscaped) {
  const std::string evil = "<script>alert('1')</script>\" onload=\"x&\x01\xFF";
  Report report = FullReport();
  AddLayer(report, evil, 0.01, 0.02);
  AddLayer(report, "model.layers.0." + evil, 0.01, 0.02);
  AddGroup(report, evil, evil, 0.5, 2);
  report.set_job(evil);
  report.add_notes(evil);
  report.mutable_perplexity(0)->set_dataset(evil);
  report.mutable_tasks(0)->set_task(evil);
  report.mutable_inputs()->set_model_uri(evil);
  report.mutable_artifacts(0)->set_path(evil);
  (*report.mutable_timing_seconds())[evil] = 1;
  const std::string page = ReportPage(report);
  EXPECT_TRUE(IsWellFormed(page));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("\" onload=")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; "
                              "onload=&quot;x&amp;\xEF\xBF\xBD\xEF\xBF\xBD"));
}

TEST(ReportPageTest, RecipeIsEscaped) {
  Report report;
  report.mutable_recipe()->add_overrides()->set_match("</pre><script>");
  const std::string page = ReportPage(report);
  EXPECT_TRUE(IsWellFormed(page));
  EXPECT_THAT(page, HasSubstr("&lt;/pre&gt;&lt;script&gt;"));
}

TEST(ReportPageTest, WhatIsNotFiniteIsSaidAndNotDrawn) {
  for (const double value : {kNaN, kInfinity, -kInfinity, 0.0, 1e308, -1e308}) {
    Report report = FullReport();
    report.mutable_perplexity(0)->set_quantized(value);
    report.mutable_perplexity(0)->set_round_to_nearest(value);
    report.mutable_perplexity(0)->set_delta_standard_error(value);
    report.mutable_tasks(0)->set_quantized_accuracy(value);
    report.mutable_layers(0)->set_output_mse(value);
    report.mutable_layers(1)->set_output_mse_round_to_nearest(value);
    report.mutable_layers(1)->mutable_clipping()->set_min(value);
    report.mutable_layers(1)->mutable_sensitivity(0)->set_error(value);
    report.mutable_scale_groups(0)->set_min(value);
    report.mutable_scale_groups(1)->set_max(value);
    report.mutable_training()->set_round_to_nearest_loss(value);
    report.mutable_training()->mutable_loss_curve(3)->set_loss(value);
    report.mutable_training()->mutable_blocks(0)->set_round_to_nearest_loss(value);
    report.mutable_training()->mutable_blocks(1)->mutable_loss_curve(9)->set_held_back_loss(value);
    (*report.mutable_timing_seconds())["FETCH"] = value;
    const std::string page = ReportPage(report);
    EXPECT_TRUE(IsWellFormed(page)) << value;
    for (const auto& [name, place] : AttributesOf(page)) {
      if (!IsPlace(name)) continue;
      EXPECT_THAT(place, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf")))) << value;
    }
  }
  Report report = FullReport();
  report.mutable_perplexity(0)->set_quantized(kNaN);
  EXPECT_THAT(TextOf(ReportPage(report)), HasSubstr("Quantized NaN ± 0.2500"));
}

TEST(ReportPageTest, PlainRoundingHasNoTrainingAndNoScales) {
  Report report;
  AddLayer(report, "model.layers.0.mlp.up_proj", 0.02, 0.02);
  const std::string page = ReportPage(report);
  EXPECT_TRUE(IsWellFormed(page));
  EXPECT_THAT(page, HasSubstr("This run has no transformation"));
  EXPECT_THAT(page, HasSubstr("No layer has a smaller output error than with plain rounding."));
  EXPECT_THAT(page, Not(HasSubstr("<section id=\"training\">")));
  EXPECT_THAT(page, Not(HasSubstr("<section id=\"scales\">")));
}

TEST(ReportPageTest, LongCurvesAndManyLayersStaySmall) {
  Report report = FullReport();
  report.clear_training();
  AddTraining(report, 10'000);
  for (int number = 0; number < 125; ++number) {
    for (const char* kind : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      AddLayer(report, fmt::format("model.layers.{}.self_attn.{}", number, kind), 0.01, 0.02);
    }
  }
  const std::string page = ReportPage(report);
  EXPECT_TRUE(IsWellFormed(page));
  EXPECT_LT(page.size(), 1'500'000);
  // The last layer and the last step are there all the same.
  EXPECT_THAT(TextOf(page), HasSubstr("model.layers.124.self_attn.o_proj 0.01000 0.02000 0.5000"));
  EXPECT_THAT(TextOf(page), HasSubstr("10,000 1.0000·10⁻⁴ 1.1000·10⁻⁴"));
}

TEST(ReportPageTest, LoadsNothingAndRunsNoScript) {
  const std::string page = ReportPage(FullReport());
  EXPECT_THAT(page, HasSubstr("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
  for (const char* loader : {"<script", "<link", "<img", "<iframe", "src=", "url(", "@import"}) {
    EXPECT_THAT(page, Not(HasSubstr(loader)));
  }
  for (const auto& [name, target] : AttributesOf(page)) {
    if (name != "href") continue;
    EXPECT_THAT(target, StartsWith("#"));
  }
}

TEST(ReportPageTest, EveryDrawingHasATitleAndADescriptionOfItsOwn) {
  const std::string page = ReportPage(FullReport());
  std::set<std::string> ids;
  std::set<std::string> labels;
  for (const auto& [name, value] : AttributesOf(page)) {
    if (name == "id") {
      EXPECT_TRUE(ids.insert(value).second) << value;
    } else if (name == "aria-labelledby") {
      const std::size_t space = value.find(' ');
      labels.insert({value.substr(0, space), value.substr(space + 1)});
    }
  }
  EXPECT_GT(labels.size(), 10);
  EXPECT_THAT(ids, IsSupersetOf(labels));
}

}  // namespace
}  // namespace teq::report
