#include "client/cli/render.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::cli {
namespace {

using teq::v1::Job;
using ::testing::HasSubstr;
using ::testing::Not;

Job RunningJob() {
  Job job;
  job.set_name("projects/default/jobs/a");
  job.set_state(Job::STATE_RUNNING);
  job.set_priority(5);
  job.set_attempt_count(2);
  job.mutable_progress()->set_stage(teq::v1::STAGE_TRANSFORM);
  job.mutable_progress()->set_done(90);
  job.mutable_progress()->set_total(200);
  job.mutable_create_time()->set_seconds(1700000000);
  (*job.mutable_labels())["team"] = "search";
  auto& weights = *job.mutable_spec()->mutable_recipe()->mutable_weights();
  weights.set_bits(3);
  weights.set_group_size(-1);
  return job;
}

teq::v1::Report MakeReport() {
  teq::v1::Report report;
  auto* perplexity = report.add_perplexity();
  perplexity->set_dataset("file:///data/test.txt");
  perplexity->set_full_precision(12.3456);
  perplexity->set_round_to_nearest(20);
  perplexity->set_quantized(13.5);
  perplexity->set_delta(1.1544);
  perplexity->set_delta_standard_error(0.0214);
  perplexity->set_kl_divergence(0.01234);
  perplexity->set_top1_agreement(0.9321);
  perplexity->set_tokens(4080);
  auto* artifact = report.add_artifacts();
  artifact->set_format("GPTQ");
  artifact->set_path("/out/a/gptq");
  artifact->set_bytes(1536);
  return report;
}

TEST(RenderTest, JobTableHasALineForEachJob) {
  EXPECT_EQ(JobTable({RunningJob()}),
            "NAME                     STATE    PROGRESS          PRIORITY  ATTEMPTS  CREATED       "
            "        LABELS\n"
            "projects/default/jobs/a  RUNNING  TRANSFORM 90/200         5         2  2023-11-14 "
            "22:13:20Z  team=search\n");
}

TEST(RenderTest, DetailsLeaveOutWhatTheJobDoesNotHave) {
  const std::string details = JobDetails(RunningJob());
  EXPECT_THAT(details, HasSubstr("state     RUNNING\n"));
  EXPECT_THAT(details, HasSubstr("weights   3 bits, whole rows, asymmetric\n"));
  EXPECT_THAT(details, Not(HasSubstr("error")));
  EXPECT_THAT(details, Not(HasSubstr("ended")));
  EXPECT_THAT(details, Not(HasSubstr("PERPLEXITY")));
}

TEST(RenderTest, SummaryOfASuccessShowsPerplexitiesAndPaths) {
  Job job = RunningJob();
  job.set_state(Job::STATE_SUCCEEDED);
  job.mutable_start_time()->set_seconds(100);
  job.mutable_end_time()->set_seconds(292);
  *job.mutable_report() = MakeReport();
  EXPECT_EQ(JobSummary(job),
            "projects/default/jobs/a  SUCCEEDED after 3m12s\n"
            "\n"
            "PERPLEXITY       FLOAT     RTN  QUANTIZED           DELTA\n"
            "/data/test.txt  12.346  20.000     13.500  +1.154 ± 0.021\n"
            "\n"
            "FORMAT     SIZE  PATH\n"
            "GPTQ    1.5 KiB  /out/a/gptq\n");
}

TEST(RenderTest, SummaryOfAFailureShowsReasonAndMessage) {
  Job job = RunningJob();
  job.set_state(Job::STATE_FAILED);
  *job.mutable_error() = ToProto(Error(absl::StatusCode::kFailedPrecondition, "PERPLEXITY_GATE",
                                       "delta 1.15 on /data/test.txt is above 0.5\x1b[31m"));
  EXPECT_EQ(JobSummary(job),
            "projects/default/jobs/a  FAILED\n"
            "PERPLEXITY_GATE: delta 1.15 on /data/test.txt is above 0.5?[31m\n");
}

TEST(RenderTest, ReportShowsTrainingAndTheWorstLayersFirst) {
  teq::v1::Report report = MakeReport();
  auto& training = *report.mutable_training();
  training.set_objective(teq::v1::OBJECTIVE_KL);
  training.set_steps(200);
  training.set_best_step(180);
  training.set_initial_loss(0.5);
  training.set_final_loss(0.25);
  training.set_round_to_nearest_loss(0.75);
  training.mutable_trainable_parameters()->set_scales(5888);
  training.set_trainable_fraction(0.0015);
  for (int i = 0; i < 12; ++i) {
    auto* layer = report.add_layers();
    layer->set_name("layer" + std::to_string(i));
    layer->set_bits(3);
    layer->set_group_size(32);
    layer->set_output_mse(i);
    layer->set_output_mse_round_to_nearest(2 * i);
  }
  report.add_notes("2 zero points were clamped");

  const std::string text = ReportText(report);
  EXPECT_THAT(text, HasSubstr("objective       KL\n"));
  EXPECT_THAT(text, HasSubstr("steps           200, kept: step 180\n"));
  EXPECT_THAT(text, HasSubstr("0.5 at the start, 0.25 kept, 0.75 by plain rounding\n"));
  EXPECT_THAT(text, HasSubstr("5888, 0.1500 % of all parameters\n"));
  EXPECT_THAT(text, HasSubstr("LARGEST OUTPUT ERROR, 10 OF 12 LAYERS"));
  EXPECT_THAT(text, HasSubstr("layer11"));
  EXPECT_THAT(text, Not(HasSubstr("layer1 ")));
  EXPECT_LT(text.find("layer11"), text.find("layer2 "));
  EXPECT_THAT(text, HasSubstr("1.100e+01  2.200e+01\n"));
  EXPECT_THAT(text, HasSubstr("0.01234         93.21 %    4080\n"));
  EXPECT_THAT(text, HasSubstr("note: 2 zero points were clamped\n"));
}

TEST(RenderTest, ReportSaysWhenPlainRoundingWasKept) {
  teq::v1::Report report;
  report.mutable_training()->set_best_step(-1);
  EXPECT_THAT(ReportText(report), HasSubstr("kept: plain rounding\n"));
  report.mutable_training()->set_best_step(0);
  EXPECT_THAT(ReportText(report), HasSubstr("kept: the start\n"));
}

TEST(RenderTest, BlocksThatWereTrainedAloneHaveTheFiguresOfTheirOwn) {
  teq::v1::Report report;
  auto& training = *report.mutable_training();
  training.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  training.set_steps(5);
  for (const auto& [kept, loss] : {std::pair{5, 0.25}, std::pair{-1, 0.75}}) {
    auto& block = *training.add_blocks();
    block.set_best_step(kept);
    block.set_initial_loss(1);
    block.set_final_loss(loss);
    block.set_round_to_nearest_loss(2);
  }
  const std::string text = ReportText(report);
  EXPECT_THAT(text, HasSubstr("2, kept: 1 steps, 0 starts, 1 plain rounding\n"));
  EXPECT_THAT(text, HasSubstr("1 at the start, 0.5 kept, 2 by plain rounding\n"));
  EXPECT_THAT(text, HasSubstr("steps of each    5\n"));
  EXPECT_THAT(text, Not(HasSubstr("held-back loss")));
}

TEST(RenderTest, BitsThatAreChosenAreShownByTheirAverage) {
  Job job = RunningJob();
  auto& weights = *job.mutable_spec()->mutable_recipe()->mutable_weights();
  weights.clear_bits();
  weights.set_target_bits(3.5);
  EXPECT_THAT(JobDetails(job), HasSubstr("weights   3.5 bits on average, whole rows, asymmetric"));
}

TEST(RenderTest, AccuraciesStandWhereverPerplexitiesDo) {
  Job job = RunningJob();
  auto& task = *job.mutable_report()->add_tasks();
  task.set_task("file:///data/task.jsonl");
  task.set_examples(200);
  task.set_full_precision_accuracy(0.75);
  task.set_quantized_accuracy(0.7);
  task.set_difference_standard_error(0.0125);
  for (const std::string& text : {JobDetails(job), JobSummary(job), ReportText(job.report())}) {
    EXPECT_THAT(text, HasSubstr("/data/task.jsonl  75.00 %    70.00 %  -5.00 ± 1.25       200\n"));
  }
}

TEST(RenderTest, OnlyFourStatesAreFinal) {
  EXPECT_TRUE(IsFinal(Job::STATE_SUCCEEDED));
  EXPECT_TRUE(IsFinal(Job::STATE_FAILED));
  EXPECT_TRUE(IsFinal(Job::STATE_CANCELLED));
  EXPECT_TRUE(IsFinal(Job::STATE_EXPIRED));
  for (const auto state : {Job::STATE_QUEUED, Job::STATE_RUNNING, Job::STATE_PUBLISHING,
                           Job::STATE_RETRY_WAIT, Job::STATE_CANCELLING}) {
    EXPECT_FALSE(IsFinal(state)) << StateName(state);
  }
}

}  // namespace
}  // namespace teq::cli
