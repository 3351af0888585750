#include "worker/agent/metrics.h"

#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/util/time_util.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::agent {
namespace {

using ::testing::HasSubstr;

v1::MetricSample SampleAt(int step, int milliseconds) {
  v1::MetricSample sample;
  sample.set_step(step);
  *sample.mutable_observe_time() =
      google::protobuf::util::TimeUtil::MillisecondsToTimestamp(milliseconds);
  return sample;
}

// A worker that has trained two steps.
void Fill(WorkerMetrics& metrics) {
  v1::JobSpec spec;
  spec.mutable_recipe()->mutable_transform()->mutable_teq()->set_batch_size(4);
  spec.mutable_calibration()->set_sequence_length(256);
  metrics.LeaseAcquired();
  metrics.BeginRun(spec);
  metrics.Sample(SampleAt(1, 1000));
  metrics.Sample(SampleAt(2, 1300));
  metrics.Exported(1000);
  metrics.EngineFailed(v1::FAILURE_CLASS_INFRASTRUCTURE);
}

class MetricsTest : public ::testing::Test {
 protected:
  // The value of a metric without labels.
  double ValueOf(const std::string& name) const {
    std::istringstream text(metrics_.Render());
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with(name + " ")) return std::stod(line.substr(name.size()));
    }
    ADD_FAILURE() << name << " is not there";
    return -1;
  }

  WorkerMetrics metrics_{"1.2.3", "/dev/shm/teq-no-such-directory/data"};
};

TEST_F(MetricsTest, CountersAddUp) {
  Fill(metrics_);
  const std::string text = metrics_.Render();
  EXPECT_THAT(text, HasSubstr("teq_build_info{program=\"teq-worker\",version=\"1.2.3\"} 1"));
  EXPECT_THAT(text, HasSubstr("teq_leases_acquired_total 1"));
  EXPECT_THAT(text, HasSubstr("teq_training_steps_total 2"));
  EXPECT_THAT(text, HasSubstr("teq_tokens_processed_total 2048"));  // 2 steps of 4 times 256
  EXPECT_THAT(text, HasSubstr("teq_export_bytes_total 1000"));
  EXPECT_THAT(text, HasSubstr("teq_engine_failures_total{class=\"INFRASTRUCTURE\"} 1"));
  EXPECT_THAT(text, HasSubstr("teq_step_duration_seconds_count 1"));
  EXPECT_THAT(text, HasSubstr("teq_step_duration_seconds_bucket{le=\"0.2\"} 0"));
  EXPECT_THAT(text, HasSubstr("teq_step_duration_seconds_bucket{le=\"0.5\"} 1"));
}

TEST_F(MetricsTest, TokensAreCountedWithoutTeqToo) {
  v1::JobSpec spec;
  spec.mutable_recipe()->mutable_transform()->mutable_awq();
  spec.mutable_recipe()->mutable_rounding()->mutable_learned();
  spec.mutable_recipe()->mutable_schedule()->set_batch_size(8);
  spec.mutable_calibration()->set_sequence_length(128);
  metrics_.BeginRun(spec);
  metrics_.Sample(SampleAt(3, 1000));
  EXPECT_EQ(ValueOf("teq_tokens_processed_total"), 3 * 8 * 128);
}

TEST_F(MetricsTest, StepsOfTheNextRunStartAgain) {
  Fill(metrics_);
  metrics_.BeginRun({});
  metrics_.Sample(SampleAt(1, 5000));
  EXPECT_EQ(ValueOf("teq_training_steps_total"), 3);
}

// The kernel's own words about this process, in kB, are the other source.
TEST_F(MetricsTest, EnginesMemoryIsWhatTheKernelSaysOfItsProcess) {
  EXPECT_EQ(ValueOf("teq_engine_memory_bytes"), 0);
  metrics_.EngineStarted(::getpid());
  const double told = ValueOf("teq_engine_memory_bytes");
  std::ifstream status("/proc/self/status");
  double resident = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) resident = std::stod(line.substr(6)) * 1024;
  }
  ASSERT_GT(resident, 0);
  EXPECT_NEAR(told / resident, 1, 0.1);
  metrics_.EngineEnded();
  EXPECT_EQ(ValueOf("teq_engine_memory_bytes"), 0);
}

TEST_F(MetricsTest, MemoryOfAnEngineThatHasJustDiedIsNone) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  metrics_.EngineStarted(child);
  EXPECT_EQ(ValueOf("teq_engine_memory_bytes"), 0);
}

// The directory is not there, so it is the disk of what it will be made in.
TEST_F(MetricsTest, DiskIsThatOfTheDataDirectory) {
  struct statvfs disk {};
  ASSERT_EQ(::statvfs("/dev/shm", &disk), 0);
  EXPECT_EQ(ValueOf("teq_data_directory_size_bytes"),
            static_cast<double>(disk.f_blocks * disk.f_frsize));
  EXPECT_LE(ValueOf("teq_data_directory_free_bytes"), ValueOf("teq_data_directory_size_bytes"));
}

TEST_F(MetricsTest, PromtoolFindsNoFault) {
  Fill(metrics_);
  std::FILE* promtool = ::popen("promtool check metrics >&2", "w");
  ASSERT_NE(promtool, nullptr);
  const std::string text = metrics_.Render();
  ASSERT_EQ(std::fwrite(text.data(), 1, text.size(), promtool), text.size());
  EXPECT_EQ(::pclose(promtool), 0);
}

TEST_F(MetricsTest, PortInUseIsNamed) {
  const auto first = ServeMetrics("127.0.0.1:0", metrics_).value();
  const std::string address = first->address();
  const absl::Status status = ServeMetrics(address, metrics_).status();
  EXPECT_EQ(ErrorReason(status), "ADDRESS_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--http"));
}

}  // namespace
}  // namespace teq::agent
