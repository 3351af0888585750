#include "worker/engine/model/device.h"

#include <gmock/gmock.h>

#include <memory>

#include "proto/spec/error.h"
#include "tests/unit/worker/engine/model/hpu_stand_in.h"
#include "torch/cuda.h"
#include "worker/engine/model/hpu_plugin.h"

namespace teq::model {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

/// The message of a device that is not there.
std::string NotAvailable(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(ErrorReason(status), "DEVICE_NOT_AVAILABLE");
  return std::string(status.message());
}

Device StandIn(int index) {
  return OpenDevice(teq::v1::DEVICE_HPU, {HpuStandIn("stand_in"), index}).value();
}

std::string PluginError(const std::string& path) {
  return NotAvailable(OpenDevice(teq::v1::DEVICE_HPU, {path}).status());
}

TEST(DeviceTest, CpuIsThereWhateverTheIndex) {
  const Device device = OpenDevice(teq::v1::DEVICE_CPU, {{}, 3}).value();
  EXPECT_TRUE(device.torch.is_cpu());
  EXPECT_THAT(device.description, StartsWith("cpu"));
  EXPECT_TRUE(Synchronize(device).ok());
  EXPECT_TRUE(EndStep(device).ok());
  const DeviceMemory memory = MemoryOf(device).value();
  EXPECT_GT(memory.total, 0);
  EXPECT_EQ(memory.peak, 0);
  EXPECT_EQ(FreeMemory(device).value(), memory.total);
}

TEST(DeviceTest, CudaOutOfRangeNamesTheIndexTheCountAndTheOption) {
  const auto count = static_cast<int>(torch::cuda::device_count());
  const std::string error = NotAvailable(OpenDevice(teq::v1::DEVICE_CUDA, {{}, 100}).status());
  if (count == 0) {
    EXPECT_THAT(error, HasSubstr("finds no CUDA device"));
  } else {
    EXPECT_THAT(error, AllOf(HasSubstr("is 100"), HasSubstr(std::to_string(count)),
                             HasSubstr("--device-index")));
  }
}

// A machine with a GPU answers the same with the count of its GPUs.
TEST(DeviceTest, IndexThatNothingHasIsRefusedRatherThanLeftToTheCpu) {
  const DeviceOptions options{.index = 100};
  EXPECT_THAT(NotAvailable(OpenDevice(teq::v1::DEVICE_ANY, options).status()),
              AllOf(HasSubstr("device_index is 100"), HasSubstr("--device-index")));
  EXPECT_THAT(NotAvailable(AvailableDevices(options).status()),
              AllOf(HasSubstr("device_index is 100"), HasSubstr("--device-index")));
}

TEST(DeviceTest, NamedPluginIsOfferedUnloadedAndTakenBeforeTheCpu) {
  if (torch::cuda::device_count() > 0) {  // which comes first
    EXPECT_THAT(AvailableDevices({"/nowhere.so"}).value(),
                ElementsAre(teq::v1::DEVICE_CUDA, teq::v1::DEVICE_HPU, teq::v1::DEVICE_CPU));
    EXPECT_EQ(OpenDevice(teq::v1::DEVICE_ANY, {HpuStandIn("stand_in")}).value().kind,
              teq::v1::DEVICE_CUDA);
    return;
  }
  EXPECT_THAT(AvailableDevices({}).value(), ElementsAre(teq::v1::DEVICE_CPU));
  EXPECT_THAT(AvailableDevices({"/nowhere.so", 1}).value(),
              ElementsAre(teq::v1::DEVICE_HPU, teq::v1::DEVICE_CPU));
  EXPECT_EQ(OpenDevice(teq::v1::DEVICE_ANY, {}).value().kind, teq::v1::DEVICE_CPU);
  EXPECT_EQ(OpenDevice(teq::v1::DEVICE_ANY, {HpuStandIn("stand_in")}).value().kind,
            teq::v1::DEVICE_HPU);
}

TEST(HpuPluginTest, IndexChoosesTheDevice) {
  EXPECT_EQ(StandIn(0).description, "hpu (stand-in A)");
  const Device second = StandIn(1);
  EXPECT_EQ(second.description, "hpu (stand-in B)");
  EXPECT_EQ(second.index, 1);
  EXPECT_EQ(MemoryOf(second).value().total, 2'000'000'000);
  EXPECT_TRUE(second.torch.is_cpu());
  const std::string error =
      NotAvailable(OpenDevice(teq::v1::DEVICE_HPU, {HpuStandIn("stand_in"), 2}).status());
  EXPECT_THAT(error, AllOf(HasSubstr("device_index is 2"), HasSubstr("are 2 devices"),
                           HasSubstr("--device-index")));
}

TEST(HpuPluginTest, MemoryThatOthersHoldIsNotPlannedWith) {
  const Device device = StandIn(0);
  EXPECT_EQ(MemoryOf(device).value().peak, 200'000'000);
  // Of 1,000 MB 300 are used, and this process never held more than 200.
  EXPECT_EQ(FreeMemory(device).value(), 900'000'000);
}

TEST(HpuPluginTest, StepsAndWaitsReachTheChosenDevice) {
  const auto marked = StandInFunction<int(int)>("StandInMarkSteps");
  const auto synchronized = StandInFunction<int(int)>("StandInSynchronized");
  const Device device = StandIn(1);
  const std::pair<int, int> before{marked(1), synchronized(1)};
  const int other = marked(0);
  ASSERT_TRUE(EndStep(device).ok());
  ASSERT_TRUE(EndStep(device).ok());
  ASSERT_TRUE(Synchronize(device).ok());
  EXPECT_EQ(marked(1) - before.first, 2);
  EXPECT_EQ(synchronized(1) - before.second, 1);
  EXPECT_EQ(marked(0), other);
}

TEST(HpuPluginTest, FailureCarriesWhatThePluginSays) {
  const Device device = StandIn(1);
  const auto fail = StandInFunction<void(int)>("StandInFail");
  fail(1);
  const absl::Status step = EndStep(device);
  const absl::Status wait = Synchronize(device);
  const absl::Status memory = FreeMemory(device).status();
  fail(0);
  EXPECT_EQ(step.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ErrorReason(step), "ENGINE_ERROR");
  EXPECT_EQ(step.message(), "mark_step of device HPU 1 failed: graph does not compile");
  EXPECT_EQ(wait.message(), "synchronize of device HPU 1 failed: device hangs");
  EXPECT_EQ(memory.message(), "memory of device HPU 1 failed: memory is gone");
}

TEST(HpuPluginTest, WithoutAPluginTheOptionIsNamed) {
  EXPECT_THAT(PluginError(""), HasSubstr("names no hpu_plugin"));
}

TEST(HpuPluginTest, FileThatIsNotThereIsNamed) {
  EXPECT_THAT(PluginError("/nowhere/hpu.so"),
              AllOf(HasSubstr("hpu_plugin /nowhere/hpu.so cannot be loaded"),
                    HasSubstr("No such file"), HasSubstr("name a shared object")));
}

TEST(HpuPluginTest, BridgeWithoutTheInterfaceIsNoPlugin) {
  const std::string path = HpuStandIn("no_symbol");
  EXPECT_THAT(PluginError(path), AllOf(HasSubstr(path), HasSubstr("exports no teq_hpu_plugin_get"),
                                       HasSubstr("implements hpu_plugin.h")));
}

TEST(HpuPluginTest, OtherVersionNamesBoth) {
  const std::string path = HpuStandIn("newer");
  EXPECT_THAT(PluginError(path), AllOf(HasSubstr(path), HasSubstr("has version 2"),
                                       HasSubstr("this worker has 1"), HasSubstr("build it")));
}

TEST(HpuPluginTest, PluginWithoutADeviceSaysWhy) {
  const std::string path = HpuStandIn("no_device");
  EXPECT_THAT(PluginError(path), AllOf(HasSubstr(path), HasSubstr("finds no device: no driver"),
                                       HasSubstr("another worker")));
}

TEST(HpuPluginTest, DeviceTypeThatLibTorchHasNoBackendForIsNamed) {
  EXPECT_THAT(PluginError(HpuStandIn("no_backend")),
              AllOf(HasSubstr("no backend for hpu"), HasSubstr("link the bridge")));
  EXPECT_THAT(PluginError(HpuStandIn("unknown_type")),
              AllOf(HasSubstr("device type xpu"), HasSubstr("known: hpu, cpu")));
}

}  // namespace
}  // namespace teq::model
