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

/// Layers of a block that get the same bits, as indices of its linear layers.
using LayerSet = std::vector<std::size_t>;

/// What every width of kCodeWidths would cost each of a block's sets.
using BlockSensitivities = std::vector<std::vector<quant::Candidate>>;

/// Called after every set with the sets done.
using SetCallback = std::function<void(std::int64_t done, std::int64_t total)>;

/// Measures, for each set of layers and width, the Kullback-Leibler divergence of the model in
/// which only these layers are rounded (to nearest, on their grids at this width) from the float
/// model: the mean over the tokens of the first windows, nats per token. 8 windows are read, fewer
/// of long ones: as many as 2048 tokens hold, at least one. `grids` and `open` are by block; the
/// grids' own bits are not read.
///
/// Blocks before a set's run once for all; float32, summed in float64. Beside the model it holds
/// what the head reads of those tokens, and of one block the rounded layers.
///
/// INVALID_ARGUMENT, MODEL_NOT_FINITE: names a layer and the width. CANCELLED, CANCELLED.
[[nodiscard]] absl::StatusOr<std::vector<BlockSensitivities>> MeasureSensitivities(
    const model::Decoder& decoder, const std::vector<BlockGrids>& grids,
    const std::vector<std::vector<LayerSet>>& open, const text::Windows& windows,
    const SetCallback& on_set, const std::atomic<bool>& cancelled);

}  // namespace teq::transform
