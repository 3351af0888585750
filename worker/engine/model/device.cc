#include "worker/engine/model/device.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <string_view>

#include "c10/core/impl/DeviceGuardImplInterface.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/cuda.h"
#include "worker/engine/model/hpu_loader.h"
#ifdef TEQ_WITH_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>
#endif

namespace teq::model {
namespace {

absl::Status NotAvailable(std::string_view message) {
  return Error(absl::StatusCode::kFailedPrecondition, "DEVICE_NOT_AVAILABLE", message);
}

absl::Status CheckIndex(std::string_view kind, int index, int count) {
  if (index >= 0 && index < count) return absl::OkStatus();
  return NotAvailable(
      fmt::format("device {}: device_index is {}, but there {} here, counted from 0; give this "
                  "worker another --device-index (device_index, TEQ_DEVICE_INDEX)",
                  kind, index, count == 1 ? "is 1 device" : fmt::format("are {} devices", count)));
}

absl::Status HpuFailed(const Device& device, std::string_view call) {
  return Error(
      absl::StatusCode::kInternal, "ENGINE_ERROR",
      fmt::format("{} of device HPU {} failed: {}", call, device.index, HpuError(*device.hpu)));
}

std::optional<int> CountCpu(const DeviceOptions& /*options*/) { return 1; }

absl::StatusOr<Device> OpenCpu(const DeviceOptions& /*options*/) {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) break;
    return Device{teq::v1::DEVICE_CPU, torch::kCPU,
                  fmt::format("cpu ({})", line.substr(colon + 2))};
  }
  return Device{teq::v1::DEVICE_CPU, torch::kCPU, "cpu"};
}

absl::StatusOr<DeviceMemory> CpuMemory(const Device& /*device*/) {
  double bytes =
      static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  double limit = 0;  // "max" where there is none, which does not read as a number
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) bytes = std::min(bytes, limit);
  return DeviceMemory{.total = static_cast<std::int64_t>(bytes)};
}

absl::Status Nothing(const Device& /*device*/) { return absl::OkStatus(); }

std::optional<int> CountCuda(const DeviceOptions& /*options*/) {
  return static_cast<int>(torch::cuda::device_count());
}

absl::StatusOr<Device> OpenCuda(const DeviceOptions& options) {
  const int count = *CountCuda(options);
  if (count == 0) {
    return NotAvailable(
        "device CUDA: LibTorch finds no CUDA device on this worker; ask for ANY or "
        "CPU, or run a worker that has one");
  }
  TEQ_RETURN_IF_ERROR(CheckIndex("CUDA", options.index, count));
  std::string description = "cuda";
#ifdef TEQ_WITH_CUDA
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, options.index) == cudaSuccess) {
    description = fmt::format("cuda ({})", properties.name);
  }
#endif
  return Device{teq::v1::DEVICE_CUDA,
                torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(options.index)),
                description, options.index};
}

// LibTorch finds no CUDA device where it was built without.
absl::StatusOr<DeviceMemory> CudaMemory([[maybe_unused]] const Device& device) {
  DeviceMemory memory;
#ifdef TEQ_WITH_CUDA
  const c10::cuda::CUDAGuard guard(device.torch);
  // The allocator knows no device before LibTorch's first tensor on one.
  static_cast<void>(torch::empty({0}, torch::TensorOptions().device(device.torch)));
  std::size_t free = 0;
  std::size_t total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.torch.index());
  memory = {.total = static_cast<std::int64_t>(total),
            .used = static_cast<std::int64_t>(total - free),
            .peak = stats.allocated_bytes[0].peak};
#endif
  return memory;
}

absl::Status SynchronizeCuda(const Device& device) {
  torch::cuda::synchronize(device.torch.index());
  return absl::OkStatus();
}

// Known only once the plugin is loaded.
std::optional<int> CountHpu(const DeviceOptions& options) {
  if (options.hpu_plugin.empty()) return 0;
  return std::nullopt;
}

absl::StatusOr<Device> OpenHpu(const DeviceOptions& options) {
  if (options.hpu_plugin.empty()) {
    return NotAvailable(
        "device HPU: the worker's configuration names no hpu_plugin; set it to the shared object "
        "that implements hpu_plugin.h for this machine, or ask for another device");
  }
  TEQ_ASSIGN_OR_RETURN(const teq_hpu_plugin* const plugin, LoadHpuPlugin(options.hpu_plugin));
  const auto unusable = [&](std::string_view what) {
    return NotAvailable(fmt::format("device HPU: hpu_plugin {} {}", options.hpu_plugin, what));
  };
  const int count = plugin->device_count();
  if (count <= 0) {
    return unusable(
        fmt::format("finds no device: {}; look at the machine's driver, or run the job "
                    "on another worker",
                    HpuError(*plugin)));
  }
  TEQ_RETURN_IF_ERROR(CheckIndex("HPU", options.index, count));
  const std::string_view type = plugin->device_type;
  if (type != "hpu" && type != "cpu") {
    return unusable(fmt::format("has tensors of device type {}; known: hpu, cpu", type));
  }
  if (type == "hpu" && !c10::impl::hasDeviceGuardImpl(torch::kHPU)) {
    return unusable(
        "brings LibTorch no backend for hpu; link the bridge that registers it, built for this "
        "worker's LibTorch");
  }
  const char* const name = plugin->device_name(options.index);
  if (name == nullptr) {
    return unusable(fmt::format("cannot name device {}: {}; look at the machine's driver",
                                options.index, HpuError(*plugin)));
  }
  return Device{teq::v1::DEVICE_HPU,
                type == "cpu"
                    ? torch::Device(torch::kCPU)
                    : torch::Device(torch::kHPU, static_cast<torch::DeviceIndex>(options.index)),
                fmt::format("hpu ({})", name), options.index, plugin};
}

absl::StatusOr<DeviceMemory> HpuMemory(const Device& device) {
  teq_hpu_memory memory{};
  if (device.hpu->memory(device.index, &memory) < 0) return HpuFailed(device, "memory");
  return DeviceMemory{memory.total, memory.used, memory.peak};
}

absl::Status SynchronizeHpu(const Device& device) {
  if (device.hpu->synchronize(device.index) < 0) return HpuFailed(device, "synchronize");
  return absl::OkStatus();
}

absl::Status MarkStep(const Device& device) {
  if (device.hpu->mark_step(device.index) < 0) return HpuFailed(device, "mark_step");
  return absl::OkStatus();
}

/// What differs between kinds of devices.
struct Kind {
  teq::v1::Device id;
  std::string_view name;
  std::optional<int> (*count)(const DeviceOptions&);  // nothing: not known before it is opened
  absl::StatusOr<Device> (*open)(const DeviceOptions&);
  absl::StatusOr<DeviceMemory> (*memory)(const Device&);
  absl::Status (*synchronize)(const Device&);
  absl::Status (*end_step)(const Device&);
};

// In the order of preference for ANY.
constexpr std::array<Kind, 3> kKinds = {
    {{teq::v1::DEVICE_CUDA, "CUDA", CountCuda, OpenCuda, CudaMemory, SynchronizeCuda, Nothing},
     {teq::v1::DEVICE_HPU, "HPU", CountHpu, OpenHpu, HpuMemory, SynchronizeHpu, MarkStep},
     {teq::v1::DEVICE_CPU, "CPU", CountCpu, OpenCpu, CpuMemory, Nothing, Nothing}}};

const Kind& KindOf(const Device& device) {
  return *std::ranges::find(kKinds, device.kind, &Kind::id);
}

/// An index that has nothing to choose from is a mistake, and the CPU not what was meant.
absl::Status CheckNeedsNoIndex(const DeviceOptions& options) {
  if (options.index == 0) return absl::OkStatus();
  return NotAvailable(
      fmt::format("device_index is {}, but this worker has neither a CUDA device nor an "
                  "hpu_plugin to choose with it; leave it out (--device-index, "
                  "TEQ_DEVICE_INDEX)",
                  options.index));
}

}  // namespace

absl::StatusOr<Device> OpenDevice(teq::v1::Device requested, const DeviceOptions& options) {
  const auto named = std::ranges::find(kKinds, requested, &Kind::id);
  if (named != kKinds.end()) return named->open(options);
  const auto any =
      std::ranges::find_if(kKinds, [&](const Kind& kind) { return kind.count(options) != 0; });
  if (any->id == teq::v1::DEVICE_CPU) TEQ_RETURN_IF_ERROR(CheckNeedsNoIndex(options));
  return any->open(options);
}

absl::StatusOr<std::vector<teq::v1::Device>> AvailableDevices(const DeviceOptions& options) {
  std::vector<teq::v1::Device> devices;
  for (const Kind& kind : kKinds) {
    const std::optional<int> count = kind.count(options);
    if (count == 0) continue;
    if (count && kind.id != teq::v1::DEVICE_CPU) {
      TEQ_RETURN_IF_ERROR(CheckIndex(kind.name, options.index, *count));
    }
    devices.push_back(kind.id);
  }
  if (devices.size() == 1) TEQ_RETURN_IF_ERROR(CheckNeedsNoIndex(options));
  return devices;
}

absl::StatusOr<DeviceMemory> MemoryOf(const Device& device) {
  return KindOf(device).memory(device);
}

absl::StatusOr<std::int64_t> FreeMemory(const Device& device) {
  TEQ_ASSIGN_OR_RETURN(const DeviceMemory memory, MemoryOf(device));
  // At least; what this process holds now is not told.
  const std::int64_t others = std::max<std::int64_t>(0, memory.used - memory.peak);
  return memory.total - others;
}

absl::Status Synchronize(const Device& device) { return KindOf(device).synchronize(device); }

absl::Status EndStep(const Device& device) { return KindOf(device).end_step(device); }

bool HasFastBfloat16([[maybe_unused]] const torch::Device& device) {
#ifdef TEQ_WITH_CUDA
  if (device.is_cuda()) {
    // From Ampere on; before it the products are emulated.
    int major = 0;
    return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()) ==
               cudaSuccess &&
           major >= 8;
  }
#endif
  if (!device.is_cpu()) return true;
#ifdef __x86_64__
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace teq::model
