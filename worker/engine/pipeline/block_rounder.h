#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "teq/v1/recipe.pb.h"
#include "torch/types.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/scratch.h"
#include "worker/engine/model/window_states.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/teq/parameters.h"
#include "worker/engine/text/windows.h"

namespace teq::pipeline {

/// One block's layers as codes; a float layer has none.
using BlockCodes = std::vector<quant::Quantized>;

/// Turns blocks into codes by a recipe's rounding, in the order in which they run.
class BlockRounder {
 public:
  /// Borrows the rounding and the decoder. Errors as Scratch::Zeros.
  [[nodiscard]] static absl::StatusOr<BlockRounder> Make(const teq::v1::Rounding& rounding,
                                                         const model::Decoder& decoder,
                                                         const text::Windows& windows,
                                                         std::int64_t batch_size,
                                                         model::Scratch& scratch);

  /// The codes of the next block, whose scales are folded. GPTQ goes through a block as it runs:
  /// q, k, v, then o on what they give rounded, then gate and up (of all experts), then down; and
  /// every block reads what the rounded ones below it give.
  [[nodiscard]] BlockCodes Round(const model::Block& folded, const transform::BlockGrids& grids,
                                 const transform::BlockAdjustments& adjustments);

  /// What a reader of the report should know.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  BlockRounder(const teq::v1::Rounding& rounding, const model::Decoder& decoder,
               std::int64_t length)
      : rounding_(rounding), runner_(decoder, length) {}

  BlockCodes RoundSequentially(const model::Block& folded, const transform::BlockGrids& grids,
                               const transform::BlockAdjustments& adjustments);
  quant::Quantized RoundByGptq(const model::Linear& linear, const torch::Tensor& gram,
                               const LayerGrid& grid, const quant::ClipFactors& clip);

  const teq::v1::Rounding& rounding_;
  model::BlockRunner runner_;
  std::optional<model::WindowStates> states_;  // that the next block reads; GPTQ only
  std::vector<std::string> notes_;
};

}  // namespace teq::pipeline
