#pragma once

#include <cstdint>

#include "worker/engine/model/block_runner.h"
#include "worker/engine/teq/scale_groups.h"
#include "worker/engine/text/windows.h"

namespace teq {

/// A random Llama: hidden 32, 2 blocks, 4 heads of 8 over 2 key-value heads, mlp 48, vocabulary 64,
/// with or without biases.
[[nodiscard]] model::Decoder TinyDecoder(std::uint64_t seed, bool biases = false);

/// That decoder's layers by their index in a block.
enum TinyLayer : std::size_t { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };

/// The same grid for every layer of that decoder.
[[nodiscard]] std::vector<transform::BlockGrids> UniformGrids(const model::Decoder& decoder,
                                                              const LayerGrid& grid);

/// Random ids, each below the tiny vocabulary.
[[nodiscard]] text::Windows RandomWindows(std::int64_t count, std::int64_t length);

}  // namespace teq
