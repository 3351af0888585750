#include "worker/agent/metrics.h"

#include <array>
#include <cstdio>
#include <string>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/time_util.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
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

std::string Exposition(const WorkerMetrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
}

WorkerMetrics Filled() {
  WorkerMetrics metrics("1.2.3");
  v1::JobSpec spec;
  spec.mutable_recipe()->mutable_transform()->mutable_teq()->set_batch_size(4);
  spec.mutable_calibration()->set_sequence_length(256);
  metrics.LeaseAcquired();
  metrics.BeginRun(spec);
  metrics.Sample(SampleAt(1, 1000));
  metrics.Sample(SampleAt(2, 1300));
  metrics.Exported(1000);
  metrics.EngineFailed(v1::FAILURE_CLASS_INFRASTRUCTURE);
  return metrics;
}

TEST(MetricsTest, CountersAddUp) {
  const std::string text = Exposition(Filled());
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

TEST(MetricsTest, StepsOfTheNextRunStartAgain) {
  WorkerMetrics metrics = Filled();
  metrics.BeginRun({});
  metrics.Sample(SampleAt(1, 5000));
  EXPECT_THAT(Exposition(metrics), HasSubstr("teq_training_steps_total 3"));
}

TEST(MetricsTest, PromtoolFindsNoFault) {
  std::FILE* promtool = ::popen("promtool check metrics >&2", "w");
  ASSERT_NE(promtool, nullptr);
  const std::string text = Exposition(Filled());
  ASSERT_EQ(std::fwrite(text.data(), 1, text.size(), promtool), text.size());
  EXPECT_EQ(::pclose(promtool), 0);
}

TEST(MetricsTest, PortInUseIsNamed) {
  WorkerMetrics metrics("1");
  const auto first = ServeMetrics("127.0.0.1:0", metrics).value();
  const std::string address = first->address();
  const absl::Status status = ServeMetrics(address, metrics).status();
  EXPECT_EQ(ErrorReason(status), "ADDRESS_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--http"));
}

}  // namespace
}  // namespace teq::agent
