#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "teq/v1/job.pb.h"
#include "torch/types.h"
#include "worker/engine/model/hpu_plugin.h"

namespace teq::model {

/// What a worker says about the one device that it computes on.
struct DeviceOptions {
  /// A shared object that implements hpu_plugin.h; empty: the worker has no Gaudi.
  std::string hpu_plugin;
  /// Which of the machine's CUDA or HPU devices, from 0. A CPU has no index.
  int index = 0;
};

/// A device that tensors can live on. LibTorch's operators go to it, on its current stream, by
/// where their tensors are.
struct Device {
  teq::v1::Device kind = teq::v1::DEVICE_CPU;
  torch::Device torch = torch::kCPU;
  std::string description;              // for reports: "cpu (AMD EPYC 9B14)"
  int index = 0;                        // among its kind
  const teq_hpu_plugin* hpu = nullptr;  // of an HPU; lives as long as the process
};

/// Bytes. `used` is what all processes hold now, `peak` the most that this one has held; both are 0
/// on a CPU.
struct DeviceMemory {
  std::int64_t total = 0;
  std::int64_t used = 0;
  std::int64_t peak = 0;
};

/// The device for a job. ANY is the first kind of CUDA, HPU and CPU that is there.
///
/// FAILED_PRECONDITION, reason DEVICE_NOT_AVAILABLE: names the device, why, and what to do. No
/// other kind is taken where the index does not fit.
[[nodiscard]] absl::StatusOr<Device> OpenDevice(teq::v1::Device requested,
                                                const DeviceOptions& options);

/// The kinds that are there, for the server to choose jobs by: the CPU, CUDA where LibTorch finds a
/// device, HPU where a plugin is named. The plugin is not loaded: a Gaudi belongs to one process,
/// and that is the engine's.
///
/// As OpenDevice where the index fits none of them.
[[nodiscard]] absl::StatusOr<std::vector<teq::v1::Device>> AvailableDevices(
    const DeviceOptions& options);

/// INTERNAL, reason ENGINE_ERROR: an HPU does not say.
[[nodiscard]] absl::StatusOr<DeviceMemory> MemoryOf(const Device& device);

/// Bytes that other processes leave of the device's memory; on a CPU, the machine's or the control
/// group's where that is less. Errors as MemoryOf.
[[nodiscard]] absl::StatusOr<std::int64_t> FreeMemory(const Device& device);

/// Returns when all that was asked of the device is done; at once on a CPU. INTERNAL, reason
/// ENGINE_ERROR: an HPU failed.
[[nodiscard]] absl::Status Synchronize(const Device& device);

/// Told after every training step, once the trained values have moved: ends an HPU's lazy graph,
/// which would otherwise grow over the steps, and is nothing elsewhere. INTERNAL, reason
/// ENGINE_ERROR: an HPU failed.
[[nodiscard]] absl::Status EndStep(const Device& device);

/// Whether products in bfloat16 are faster there than in float32.
[[nodiscard]] bool HasFastBfloat16(const torch::Device& device);

}  // namespace teq::model
