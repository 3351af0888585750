#pragma once

#include <vector>

#include "teq/v1/worker_service.pb.h"
#include "worker/engine/model/device.h"

namespace teq::speed {

/// What this machine's devices reach in a few hundred milliseconds each: matrix products, and a
/// copy inside their memory, each the fastest of several. A device that cannot be measured is left
/// out. `threads` and `options` as the pipeline's Options have them.
[[nodiscard]] std::vector<teq::v1::DeviceCalibration> CalibrateDevices(
    int threads, const model::DeviceOptions& options);

}  // namespace teq::speed
