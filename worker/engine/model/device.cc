#include "worker/engine/model/device.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string_view>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/cuda.h"
#ifdef TEQ_WITH_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#endif

namespace teq::model {
namespace {

absl::Status NotAvailable(std::string_view message) {
  return Error(absl::StatusCode::kFailedPrecondition, "DEVICE_NOT_AVAILABLE", message);
}

Device Cpu() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) break;
    return {teq::v1::DEVICE_CPU, torch::kCPU, fmt::format("cpu ({})", line.substr(colon + 2))};
  }
  return {teq::v1::DEVICE_CPU, torch::kCPU, "cpu"};
}

Device Cuda() {
  std::string description = "cuda";
#ifdef TEQ_WITH_CUDA
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess) {
    description = fmt::format("cuda ({})", properties.name);
  }
#endif
  return {teq::v1::DEVICE_CUDA, torch::Device(torch::kCUDA, 0), description};
}

absl::StatusOr<Device> Hpu(const std::string& plugin) {
  if (plugin.empty()) {
    return NotAvailable(
        "device HPU: the worker's configuration names no hpu_plugin; set it to the "
        "shared object of the Gaudi bridge, or ask for another device");
  }
  // The plugin registers the backend as it is loaded and must stay loaded.
  if (dlopen(plugin.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return NotAvailable(
        fmt::format("device HPU: hpu_plugin {} cannot be loaded: {}", plugin, dlerror()));
  }
  return Device{teq::v1::DEVICE_HPU, torch::Device(torch::kHPU), "hpu"};
}

}  // namespace

absl::StatusOr<Device> OpenDevice(teq::v1::Device requested, const std::string& hpu_plugin) {
  switch (requested) {
    case teq::v1::DEVICE_HPU:
      return Hpu(hpu_plugin);
    case teq::v1::DEVICE_CUDA:
      if (torch::cuda::is_available()) return Cuda();
      return NotAvailable(
          "device CUDA: LibTorch finds no CUDA device on this worker; ask for ANY or "
          "CPU, or run a worker that has one");
    case teq::v1::DEVICE_CPU:
      return Cpu();
    default:
      return torch::cuda::is_available() ? Cuda() : Cpu();
  }
}

std::vector<teq::v1::Device> AvailableDevices(const std::string& hpu_plugin) {
  std::vector<teq::v1::Device> devices = {teq::v1::DEVICE_CPU};
  if (torch::cuda::is_available()) devices.push_back(teq::v1::DEVICE_CUDA);
  if (!hpu_plugin.empty()) devices.push_back(teq::v1::DEVICE_HPU);
  return devices;
}

std::int64_t PeakDeviceMemory(const Device& device) {
#ifdef TEQ_WITH_CUDA
  if (device.kind == teq::v1::DEVICE_CUDA) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.torch.index());
    return stats.allocated_bytes[0].peak;
  }
#endif
  static_cast<void>(device);
  return 0;
}

std::int64_t UsableMemory(const Device& device) {
  constexpr double kShare = 0.6;
#ifdef TEQ_WITH_CUDA
  if (device.kind == teq::v1::DEVICE_CUDA) {
    cudaDeviceProp properties{};
    cudaGetDeviceProperties(&properties, device.torch.index());
    return static_cast<std::int64_t>(kShare * static_cast<double>(properties.totalGlobalMem));
  }
#endif
  static_cast<void>(device);
  double bytes =
      static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  double limit = 0;  // "max" where there is none, which does not read as a number
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) bytes = std::min(bytes, limit);
  return static_cast<std::int64_t>(kShare * bytes);
}

}  // namespace teq::model
