#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "teq/v1/job.pb.h"
#include "torch/types.h"

namespace teq::model {

/// A device that tensors can live on.
struct Device {
  teq::v1::Device kind = teq::v1::DEVICE_CPU;
  torch::Device torch = torch::kCPU;
  std::string description;  // for reports: "cpu (AMD EPYC 9B14)"
};

/// The device for a job: CUDA if there is one and ANY is asked for, else the CPU. `hpu_plugin` is a
/// shared object that registers LibTorch's HPU backend when it is loaded; nothing else depends on
/// it.
///
/// FAILED_PRECONDITION, reason DEVICE_NOT_AVAILABLE: names the device and why.
[[nodiscard]] absl::StatusOr<Device> OpenDevice(teq::v1::Device requested,
                                                const std::string& hpu_plugin);

/// The kinds that OpenDevice can open here: the CPU, CUDA where LibTorch finds one, HPU where a
/// plugin is named.
[[nodiscard]] std::vector<teq::v1::Device> AvailableDevices(const std::string& hpu_plugin);

/// The most memory that LibTorch had allocated on `device`, bytes; 0 on a CPU.
[[nodiscard]] std::int64_t PeakDeviceMemory(const Device& device);

/// Bytes that a run may plan with: three fifths of the device's memory; on a CPU, of the machine's
/// or of the control group's where that is less.
[[nodiscard]] std::int64_t UsableMemory(const Device& device);

}  // namespace teq::model
