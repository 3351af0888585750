#include "client/model_info/estimate.h"

#include <gmock/gmock.h>

#include "proto/spec/error.h"
#include "tests/unit/client/model_info/tiny_job.h"

namespace teq::model_info {
namespace {

using teq::v1::Device;
using teq::v1::JobEstimate;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

KnownWorker Worker(const std::string& id) {
  KnownWorker worker{id, {}};
  worker.capabilities.add_devices(teq::v1::DEVICE_CPU);
  return worker;
}

void Calibrate(Device device, double speed, std::int64_t memory, KnownWorker& worker) {
  teq::v1::DeviceCalibration& calibration = *worker.capabilities.add_calibrations();
  calibration.set_device(device);
  calibration.set_operations_per_second(speed);
  calibration.set_copied_bytes_per_second(speed / 10);
  calibration.set_memory_bytes(memory);
}

KnownWorker Measured(const std::string& id, double speed, std::int64_t memory = 64 * kGiB) {
  KnownWorker worker = Worker(id);
  Calibrate(teq::v1::DEVICE_CPU, speed, memory, worker);
  return worker;
}

class EstimateTest : public testing::Test {
 protected:
  JobEstimate Estimate(const std::vector<KnownWorker>& workers) const {
    const auto estimate = EstimateJob(spec_, TinyConfig(), 1000, workers);
    EXPECT_TRUE(estimate.ok()) << estimate.status();
    return estimate.value_or(JobEstimate());
  }

  static std::vector<std::string> Names(const JobEstimate& estimate) {
    std::vector<std::string> names;
    for (const auto& worker : estimate.workers()) names.push_back(worker.worker());
    return names;
  }

  teq::v1::JobSpec spec_ = TinySpec();
};

TEST_F(EstimateTest, WithoutAWorkerThereIsAPlanAndNoTime) {
  const JobEstimate estimate = Estimate({});
  EXPECT_EQ(estimate.stages_size(), 8);
  EXPECT_FALSE(estimate.stages(3).has_seconds());
  EXPECT_THAT(estimate.workers(), IsEmpty());
  EXPECT_EQ(estimate.memory_limit_bytes(), 0);
  EXPECT_EQ(estimate.hidden_states(), teq::v1::HIDDEN_STATES_IN_MEMORY);
  EXPECT_EQ(estimate.parameters(), 512 * 64 + 2 * 41088 + 64);
  EXPECT_EQ(estimate.outputs(0).format(), teq::v1::FORMAT_GPTQ);
  // The largest of all stages.
  EXPECT_EQ(estimate.peak_host_bytes(), estimate.stages(4).host_bytes());
  EXPECT_EQ(estimate.peak_scratch_bytes(), estimate.stages(4).scratch_bytes());
}

TEST_F(EstimateTest, WorkersComeByTheirTimeAndThoseWithoutFiguresLater) {
  const JobEstimate estimate =
      Estimate({Worker("unmeasured"), Measured("slow", 1e9), Measured("fast", 1e11)});
  EXPECT_THAT(Names(estimate), ElementsAre("fast", "slow", "unmeasured"));
  EXPECT_NEAR(estimate.workers(1).seconds() / estimate.workers(0).seconds(), 100, 1e-6);
  EXPECT_FALSE(estimate.workers(2).has_seconds());
  double sum = 0;
  for (const auto& stage : estimate.stages()) sum += stage.seconds();
  EXPECT_NEAR(sum, estimate.workers(0).seconds(), 1e-12);
  // Three fifths of what the worker has.
  EXPECT_EQ(estimate.memory_limit_bytes(), 64 * kGiB * 3 / 5);
}

TEST_F(EstimateTest, AWorkerThatIsTooSmallSaysWhyAndComesLast) {
  const JobEstimate estimate =
      Estimate({Measured("a-small", 1e12, 300 << 20), Measured("large", 1e9)});
  EXPECT_THAT(Names(estimate), ElementsAre("large", "a-small"));
  EXPECT_THAT(estimate.workers(1).refusal(), HasSubstr("use a worker with more memory"));
  EXPECT_FALSE(estimate.workers(1).has_seconds());

  const JobEstimate alone = Estimate({Measured("small", 1e12, 300 << 20)});
  EXPECT_THAT(alone.notes(), testing::Contains(HasSubstr("fits no worker that is there")));
  EXPECT_EQ(alone.memory_limit_bytes(), 0);
}

TEST_F(EstimateTest, OnlyWorkersWithTheDeviceCount) {
  KnownWorker with_gpu = Measured("gpu", 1e9);
  with_gpu.capabilities.add_devices(teq::v1::DEVICE_CUDA);
  Calibrate(teq::v1::DEVICE_CUDA, 1e13, 80 * kGiB, with_gpu);
  const std::vector<KnownWorker> workers = {Measured("cpu", 1e9), with_gpu};
  // ANY takes a GPU where there is one, as the engine does.
  const JobEstimate any = Estimate(workers);
  EXPECT_THAT(Names(any), ElementsAre("gpu", "cpu"));
  EXPECT_EQ(any.workers(0).device(), teq::v1::DEVICE_CUDA);
  EXPECT_GT(any.peak_device_bytes(), 0);
  KnownWorker with_gaudi = Measured("gaudi", 1e9);
  with_gaudi.capabilities.add_devices(teq::v1::DEVICE_HPU);
  Calibrate(teq::v1::DEVICE_HPU, 1e13, 80 * kGiB, with_gaudi);
  EXPECT_EQ(Estimate({with_gaudi}).workers(0).device(), teq::v1::DEVICE_HPU);
  spec_.mutable_resources()->set_device(teq::v1::DEVICE_CUDA);
  EXPECT_THAT(Names(Estimate(workers)), ElementsAre("gpu"));
  spec_.mutable_resources()->set_device(teq::v1::DEVICE_CPU);
  EXPECT_EQ(Estimate({with_gpu}).workers(0).device(), teq::v1::DEVICE_CPU);
  spec_.mutable_resources()->set_device(teq::v1::DEVICE_HPU);
  EXPECT_THAT(Estimate(workers).workers(), IsEmpty());
}

TEST_F(EstimateTest, AnOwnLimitThatIsTooSmallIsAnError) {
  spec_.mutable_resources()->set_memory_limit_bytes(100 << 20);
  const auto estimate = EstimateJob(spec_, TinyConfig(), 0, {Measured("w", 1e9)});
  EXPECT_EQ(ErrorReason(estimate.status()), "MEMORY_LIMIT");
}

}  // namespace
}  // namespace teq::model_info
