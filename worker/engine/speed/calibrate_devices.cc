#include "worker/engine/speed/calibrate_devices.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <optional>
#include <string_view>

#include "ATen/ops/matmul.h"
#include "ATen/ops/rand.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "torch/types.h"
#include "worker/engine/model/device.h"
#include "worker/engine/model/threads.h"

namespace teq::speed {
namespace {

using Clock = std::chrono::steady_clock;
using torch::Tensor;

/// How much is done at once: enough to fill the device, little enough for a slow processor.
struct Sizes {
  std::int64_t tokens = 512;
  std::int64_t width = 2048;
  std::int64_t copied_values = std::int64_t{16} << 20;
};
constexpr Sizes kHost;
constexpr Sizes kAccelerator{
    .tokens = 4096, .width = 4096, .copied_values = std::int64_t{64} << 20};
constexpr int kLeastRuns = 3;
constexpr auto kDuration = std::chrono::milliseconds(100);

/// The fewest seconds that `run` took; it gives a tensor that is there when its first value is.
template <typename Run>
double FewestSeconds(const Run& run) {
  const auto timed = [&run] {
    const Clock::time_point begin = Clock::now();
    static_cast<void>(run().flatten()[0].template item<float>());
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  timed();  // pages, kernels and threads come into being
  const Clock::time_point begin = Clock::now();
  double fewest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kLeastRuns || Clock::now() - begin < kDuration; ++i) {
    fewest = std::min(fewest, timed());
  }
  return fewest;
}

teq::v1::DeviceCalibration Measure(const model::Device& device, const model::DeviceMemory& memory) {
  const torch::NoGradGuard no_gradient;
  const Sizes& sizes = device.torch.is_cpu() ? kHost : kAccelerator;
  const auto options = torch::TensorOptions().dtype(torch::kFloat32).device(device.torch);
  const Tensor states = at::rand({sizes.tokens, sizes.width}, options);
  const Tensor weights = at::rand({sizes.width, sizes.width}, options);
  const Tensor source = at::rand({sizes.copied_values}, options);
  Tensor target = at::empty_like(source);
  const double copy = FewestSeconds([&] { return target.copy_(source); });

  teq::v1::DeviceCalibration calibration;
  calibration.set_device(device.kind);
  const auto rate = [&](torch::ScalarType type) {
    const Tensor rows = states.to(type);
    const Tensor columns = weights.to(type);
    return 2 * static_cast<double>(sizes.tokens * sizes.width * sizes.width) /
           FewestSeconds([&] { return at::matmul(rows, columns); });
  };
  calibration.set_operations_per_second(rate(torch::kFloat32));
  if (model::HasFastBfloat16(device.torch)) {
    calibration.set_bfloat16_operations_per_second(rate(torch::kBFloat16));
  }
  calibration.set_copied_bytes_per_second(static_cast<double>(source.nbytes()) / copy);
  calibration.set_memory_bytes(memory.total);
  return calibration;
}

// The agent logs what the engine prints.
void TellUnmeasured(teq::v1::Device device, std::string_view why) {
  fmt::print(stderr, "{} is not measured: {}\n",
             ShortEnumName(teq::v1::Device_descriptor(), device), why);
}

std::optional<teq::v1::DeviceCalibration> TryToMeasure(const model::Device& device) {
  try {
    const absl::StatusOr<model::DeviceMemory> memory = model::MemoryOf(device);
    if (memory.ok()) return Measure(device, *memory);
    TellUnmeasured(device.kind, ErrorText(memory.status()));
  } catch (const std::exception& error) {  // a device that is taken, or full
    TellUnmeasured(device.kind, error.what());
  }
  return std::nullopt;
}

}  // namespace

std::vector<teq::v1::DeviceCalibration> CalibrateDevices(int threads,
                                                         const model::DeviceOptions& options) {
  model::SetThreads(threads);
  std::vector<teq::v1::DeviceCalibration> calibrations;
  const auto kinds = model::AvailableDevices(options);
  if (!kinds.ok()) return {};
  for (const teq::v1::Device kind : *kinds) {
    const absl::StatusOr<model::Device> device = model::OpenDevice(kind, options);
    if (!device.ok()) {
      TellUnmeasured(kind, ErrorText(device.status()));
      continue;
    }
    if (const auto calibration = TryToMeasure(*device)) calibrations.push_back(*calibration);
  }
  return calibrations;
}

}  // namespace teq::speed
