#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/pack/gguf_container.h"
#include "worker/engine/pack/packable_model.h"

namespace teq::pack {

/// The rows of queries or keys as ggml's rotation of Llama wants them, int64 [heads * size]: where
/// a checkpoint rotates the first half of a head against the second, the pairs become neighbours.
/// Row i of the result is row order[i] of the checkpoint.
[[nodiscard]] torch::Tensor NeighbourPairs(std::int64_t heads, std::int64_t head_size);

/// The rows of a fused matrix as all queries, all keys, all values, from rows that go by key head:
/// its queries, its key, its value. int64 [(heads + 2 * kv_heads) * size].
[[nodiscard]] torch::Tensor QueriesKeysValues(std::int64_t heads, std::int64_t kv_heads,
                                              std::int64_t head_size);

/// All tensors of a model under GGUF's names, in its row orders and types: codes as TypeOf says,
/// other matrices as float16 or bfloat16, vectors and positions as float32; and what llama.cpp
/// divides rotary frequencies by, where they are scaled as Llama 3's. They refer to the model.
[[nodiscard]] absl::StatusOr<std::vector<GgufTensor>> GgufTensors(const PackableModel& model);

}  // namespace teq::pack
