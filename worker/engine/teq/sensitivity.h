#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/quant/bit_choice.h"
#include "worker/engine/teq/scale_groups.h"
#include "worker/engine/text/windows.h"

namespace teq::transform {

/// Whether a layer's bits are open.
using BlockFlags = std::vector<bool>;

/// What every width of kCodeWidths would cost a layer; empty where its bits are not open.
using BlockSensitivities = std::vector<std::vector<quant::Candidate>>;

/// Called after every layer with the layers done.
using LayerCallback = std::function<void(std::int64_t done, std::int64_t total)>;

/// Measures, for each open layer and width, the Kullback-Leibler divergence of the model in which
/// only this layer is rounded (to nearest, on its grid at this width) from the float model: the
/// mean over the tokens of the first windows, nats per token. 8 windows are read, fewer of long
/// ones: as many as 2048 tokens hold, at least one. `grids` and `open` are by block; the grids' own
/// bits are not read.
///
/// Blocks before the layer run once for all; float32, summed in float64. Beside the model it holds
/// the float model's logits of those tokens.
///
/// INVALID_ARGUMENT, MODEL_NOT_FINITE: names the layer and the width. CANCELLED, CANCELLED.
[[nodiscard]] absl::StatusOr<std::vector<BlockSensitivities>> MeasureSensitivities(
    const model::Decoder& decoder, const std::vector<BlockGrids>& grids,
    const std::vector<BlockFlags>& open, const text::Windows& windows,
    const LayerCallback& on_layer, const std::atomic<bool>& cancelled);

}  // namespace teq::transform
