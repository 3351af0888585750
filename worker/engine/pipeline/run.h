#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>

#include "absl/status/status.h"
#include "client/objects/publication.h"
#include "proto/spec/uri.h"
#include "teq/v1/engine.pb.h"
#include "worker/engine/model/device.h"

namespace teq::pipeline {

/// Where a run's events go. Called by one thread at a time; must not block for long.
using EventSink = std::function<void(const teq::v1::EngineEvent&)>;

struct Options {
  int threads = 0;  // 0: the machine's cores
  UriPolicy uri_policy;
  model::DeviceOptions device;
  std::filesystem::path data = "teqd-data";  // below it: fetched models, staged results
  std::uint64_t cache_bytes = 100ULL << 30;  // the most that fetched models and texts may take
  objects::StepHook step_hook;               // told of the steps of an upload, by any thread
};

/// Runs one job from its checkpoint to its committed content: FETCH, BASELINE_EVAL, CALIBRATE,
/// TRANSFORM, ROUND, PACK, VERIFY, and PUBLISH as far as the attempt's sealed manifest, uploaded
/// where the output is an object store. The last event is `finished` or `failed`; it is returned as
/// well as sent. A failed run leaves nothing under the attempt's prefix. The caller makes the
/// content the output's (client/objects/publication.h).
///
/// `cancelled` is looked at between training steps, evaluation windows and layers, and as bytes are
/// uploaded.
teq::v1::EngineEvent Run(const teq::v1::StartRun& start, const Options& options,
                         const EventSink& sink, const std::atomic<bool>& cancelled);

}  // namespace teq::pipeline
