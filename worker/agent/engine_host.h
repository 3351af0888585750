#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "teq/v1/engine.pb.h"

namespace teq::agent {

/// The descriptor of the engine's end of the socket pair.
inline constexpr int kEngineDescriptor = 3;

/// Runs one job; see teq::pipeline::Run. Sends its last event, `finished` or `failed`, to the sink
/// too.
using RunFunction = std::function<void(const teq::v1::StartRun& start,
                                       const std::function<void(const teq::v1::EngineEvent&)>& sink,
                                       const std::atomic<bool>& cancelled)>;

/// Measures the devices; see teq::speed::CalibrateDevices.
using CalibrateFunction = std::function<std::vector<teq::v1::DeviceCalibration>()>;

/// The engine process: waits for `start` on `fd`, runs it, and writes its events to `fd`; or for
/// `calibrate`, and answers that. Then returns the process's exit code. The process dies with its
/// parent, at the latest when the socket ends. Owns `fd`.
[[nodiscard]] int ServeEngine(int fd, const RunFunction& run, const CalibrateFunction& calibrate);

}  // namespace teq::agent
