#include "client/cli/watch_view.h"

#include "client/cli/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using teq::v1::Job;
using teq::v1::PerplexitySample;
using teq::v1::WatchJobResponse;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

WatchJobResponse Snapshot(Job::State state, std::int64_t fence) {
  WatchJobResponse message;
  message.mutable_snapshot()->set_name("projects/p/jobs/j");
  message.mutable_snapshot()->set_state(state);
  message.mutable_snapshot()->set_fence(fence);
  return message;
}

WatchJobResponse Change(Job::State to, std::int64_t fence, const std::string& worker) {
  WatchJobResponse message;
  auto& change = *message.mutable_event()->mutable_state_change();
  change.set_to(to);
  change.set_fence(fence);
  change.set_worker(worker);
  return message;
}

WatchJobResponse Progress(teq::v1::Stage stage, int done, int total, const std::string& unit) {
  WatchJobResponse message;
  auto& progress = *message.mutable_event()->mutable_progress();
  progress.set_stage(stage);
  progress.set_done(done);
  progress.set_total(total);
  progress.set_unit(unit);
  return message;
}

WatchJobResponse Sample(int step, int total, double loss) {
  WatchJobResponse message;
  auto& sample = *message.mutable_event()->mutable_sample();
  sample.set_step(step);
  sample.set_total_steps(total);
  sample.set_loss(loss);
  sample.set_tokens_per_second(1234);
  return message;
}

WatchJobResponse Perplexity(PerplexitySample::Phase phase, double value) {
  WatchJobResponse message;
  auto& sample = *message.mutable_event()->mutable_perplexity();
  sample.set_dataset("file:///t.txt");
  sample.set_phase(phase);
  sample.set_value(value);
  return message;
}

WatchState Seen(const std::vector<WatchJobResponse>& messages) {
  WatchState state;
  for (const auto& message : messages) Apply(message, state);
  return state;
}

WatchState Training() {
  WatchState state =
      Seen({Snapshot(Job::STATE_QUEUED, 0), Change(Job::STATE_RUNNING, 1, "w1"),
            Perplexity(PerplexitySample::PHASE_FULL_PRECISION, 12.5),
            Perplexity(PerplexitySample::PHASE_ROUND_TO_NEAREST, 20),
            Progress(teq::v1::STAGE_TRANSFORM, 80, 200, "steps"), Sample(90, 200, 0.123456)});
  state.job.mutable_progress()->set_remaining_seconds(80);
  return state;
}

// ---- State ----

TEST(WatchStateTest, NewLeaseForgetsWhatTheOneBeforeMeasured) {
  WatchState state = Training();
  Apply(Change(Job::STATE_RETRY_WAIT, 1, ""), state);
  EXPECT_EQ(state.perplexities.size(), 2U);
  Apply(Change(Job::STATE_RUNNING, 2, "w2"), state);
  EXPECT_TRUE(state.perplexities.empty());
  EXPECT_FALSE(state.job.has_latest_metrics());
  EXPECT_EQ(state.job.worker(), "w2");
}

TEST(WatchStateTest, RepeatedPerplexityReplacesTheOld) {
  const WatchState state = Seen({Perplexity(PerplexitySample::PHASE_QUANTIZED, 1),
                                 Perplexity(PerplexitySample::PHASE_QUANTIZED, 2)});
  ASSERT_EQ(state.perplexities.size(), 1U);
  EXPECT_EQ(state.perplexities[0].value(), 2);
}

TEST(WatchStateTest, KeepaliveOnlyProvesTheConnection) {
  WatchState state = Training();
  state.connected = false;
  WatchJobResponse message;
  message.mutable_keepalive();
  Apply(message, state);
  EXPECT_TRUE(state.connected);
  EXPECT_EQ(state.job.latest_metrics().step(), 90);
}

// ---- Live display ----

TEST(LiveDisplayTest, ShowsStageBarStepLossSpeedAndTimeLeft) {
  EXPECT_THAT(LiveLines(Training(), 120),
              ElementsAre("projects/p/jobs/j  RUNNING on w1",
                          "TRANSFORM 4/8 [##################----------------------]  45 %  "
                          "step 90/200  loss 0.12346  1.2k tokens/s  1m20s left",
                          "perplexity of /t.txt: float 12.500, RTN 20.000"));
}

TEST(LiveDisplayTest, BarGivesWayAndLinesStayInsideANarrowTerminal) {
  for (const int width : {120, 100, 80, 60, 40, 20, 5, 1}) {
    for (const std::string& line : LiveLines(Training(), width)) {
      EXPECT_LE(Columns(line), static_cast<std::size_t>(std::max(1, width - 1))) << width;
    }
  }
  EXPECT_EQ(LiveLines(Training(), 70)[1],
            "TRANSFORM 4/8 45 %  step 90/200  loss 0.12346  1.2k tokens/s  1m20s l");
}

TEST(LiveDisplayTest, OtherStagesCountTheirOwnUnits) {
  const WatchState state = Seen(
      {Snapshot(Job::STATE_RUNNING, 1), Progress(teq::v1::STAGE_BASELINE_EVAL, 5, 20, "windows")});
  EXPECT_THAT(LiveLines(state, 60)[1], HasSubstr(" 25 %  5/20 windows"));
}

TEST(LiveDisplayTest, StageOfUnknownLengthHasNoBar) {
  const WatchState state =
      Seen({Snapshot(Job::STATE_RUNNING, 1), Progress(teq::v1::STAGE_FETCH, 0, 0, "")});
  EXPECT_EQ(LiveLines(state, 80)[1], "FETCH 1/8");
}

TEST(LiveDisplayTest, LostConnectionIsTold) {
  WatchState state = Training();
  state.connected = false;
  EXPECT_EQ(LiveLines(state, 80).back(), "connection lost; trying again");
}

TEST(LiveDisplayTest, FrameReplacesTheOneBefore) {
  LiveDisplay display;
  WatchState state = Seen({Snapshot(Job::STATE_QUEUED, 0)});
  EXPECT_EQ(display.Frame(state, 80), "projects/p/jobs/j  QUEUED\n");
  EXPECT_EQ(display.Frame(state, 80), "");
  state.job.set_state(Job::STATE_RUNNING);
  EXPECT_EQ(display.Frame(state, 80), "\r\x1b[1A\x1b[Jprojects/p/jobs/j  RUNNING\n");
  EXPECT_EQ(display.Clear(80), "\r\x1b[1A\x1b[J");
  EXPECT_EQ(display.Clear(80), "");
}

TEST(LiveDisplayTest, FrameClearsTheRowsThatANarrowerTerminalWrapped) {
  LiveDisplay display;
  const WatchState state = Seen({Snapshot(Job::STATE_QUEUED, 0)});
  (void)display.Frame(state, 80);  // 25 columns in one row
  EXPECT_THAT(display.Frame(state, 10), HasSubstr("\x1b[3A"));
  EXPECT_EQ(RowsOf({"", "12345678901", "1234567890"}, 10), 4);
}

// ---- Plain log ----

constexpr SteadyTime kStart{};

TEST(PlainLogTest, ChangesOfStateAndStageArePrintedOnce) {
  PlainLog log;
  WatchState state = Seen({Snapshot(Job::STATE_QUEUED, 0)});
  EXPECT_EQ(log.Advance(state, kStart), "projects/p/jobs/j  QUEUED\n");
  EXPECT_EQ(log.Advance(state, kStart), "");
  Apply(Change(Job::STATE_RUNNING, 1, "w1"), state);
  EXPECT_EQ(log.Advance(state, kStart), "projects/p/jobs/j  RUNNING on w1\n");
  Apply(Progress(teq::v1::STAGE_FETCH, 0, 3, "files"), state);
  EXPECT_EQ(log.Advance(state, kStart), "FETCH 1/8\n");
  Apply(Progress(teq::v1::STAGE_FETCH, 1, 3, "files"), state);
  EXPECT_EQ(log.Advance(state, kStart), "");
}

TEST(PlainLogTest, PerplexityIsPrintedAsItArrives) {
  PlainLog log;
  WatchState state = Seen({Snapshot(Job::STATE_RUNNING, 1)});
  (void)log.Advance(state, kStart);
  Apply(Perplexity(PerplexitySample::PHASE_QUANTIZED, 13.25), state);
  EXPECT_EQ(log.Advance(state, kStart), "perplexity of /t.txt: quantized 13.250\n");
  EXPECT_EQ(log.Advance(state, kStart), "");
}

TEST(PlainLogTest, TrainingIsPrintedEveryTwoSecondsAndAtEveryTenth) {
  PlainLog log;
  WatchState state =
      Seen({Snapshot(Job::STATE_RUNNING, 1), Progress(teq::v1::STAGE_TRANSFORM, 0, 1000, "steps")});
  (void)log.Advance(state, kStart);
  SteadyTime now = kStart + seconds(10);
  Apply(Sample(1, 1000, 0.5), state);
  EXPECT_EQ(log.Advance(state, now), "step 1/1000  loss 0.5  1.2k tokens/s\n");
  Apply(Sample(2, 1000, 0.5), state);
  EXPECT_EQ(log.Advance(state, now + milliseconds(1999)), "");
  EXPECT_EQ(log.Advance(state, now + seconds(2)), "step 2/1000  loss 0.5  1.2k tokens/s\n");
  Apply(Sample(100, 1000, 0.4), state);
  EXPECT_EQ(log.Advance(state, now + seconds(2)), "step 100/1000  loss 0.4  1.2k tokens/s\n");
  EXPECT_EQ(log.Advance(state, now + seconds(20)), "");
}

TEST(PlainLogTest, SecondAttemptIsToldAgainFromItsStart) {
  PlainLog log;
  WatchState state = Training();
  (void)log.Advance(state, kStart);
  Apply(Change(Job::STATE_RUNNING, 2, "w2"), state);
  EXPECT_EQ(log.Advance(state, kStart), "projects/p/jobs/j  RUNNING on w2\n");
  Apply(Perplexity(PerplexitySample::PHASE_FULL_PRECISION, 12.5), state);
  EXPECT_EQ(log.Advance(state, kStart), "perplexity of /t.txt: float 12.500\n");
}

TEST(PlainLogTest, LostAndFoundConnectionIsTold) {
  PlainLog log;
  WatchState state = Seen({Snapshot(Job::STATE_QUEUED, 0)});
  (void)log.Advance(state, kStart);
  state.connected = false;
  EXPECT_EQ(log.Advance(state, kStart), "connection lost; trying again\n");
  EXPECT_EQ(log.Advance(state, kStart), "");
  state.connected = true;
  EXPECT_EQ(log.Advance(state, kStart), "connected again\n");
}

}  // namespace
}  // namespace teq::cli
