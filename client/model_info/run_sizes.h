#pragma once

#include <cstdint>

// How much of a run is done at once. The engine goes by these, and the plan that says what a run
// takes counts with them.
namespace teq::model_info {

/// Tokens that run through a block at once, without gradients.
inline constexpr std::int64_t kBatchTokens = 2048;

/// Tokens of an evaluation that go through the model together: a block is read once for all of
/// them.
inline constexpr std::int64_t kChunkTokens = 8192;

/// Logits that are held at once where two models are compared.
inline constexpr std::int64_t kComparedLogits = 1 << 23;

/// Logits from which tokens are drawn at once.
inline constexpr std::int64_t kDrawnLogits = 1 << 23;

/// Of a step's tokens those that are drawn again, where any are; more where all steps together are
/// to have more. Fewer in all are drawn in fewer steps, as drawing costs two runs of the model.
inline constexpr double kDrawnOfStep = 0.5;

/// Logits of a slice of the vocabulary: enough for an efficient product, few enough to stay in a
/// processor's cache; and the least columns of one.
inline constexpr std::int64_t kSliceLogits = 1 << 21;
inline constexpr std::int64_t kLeastSlice = 512;

}  // namespace teq::model_info
