#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// Reads a published directory's model.gguf back, under the names, in the row orders and in the
/// orientation of the Hugging Face checkpoint that `config` describes. Written from the format's
/// and from llama.cpp's description: it shares nothing with the packer.
///
/// A layer's group_size is a block's, and its zero points are undefined where the type has offsets
/// in their place (Q4_1). A tied matrix appears under the embedding's and the head's name.
///
/// DATA_LOSS, VERIFY_FAILED: a broken file, a tensor that the model does not have, and metadata
/// that says something else than `config` about what llama.cpp is to compute.
[[nodiscard]] absl::StatusOr<PackedModel> ReadGgufDirectory(const std::filesystem::path& directory,
                                                            const model_info::ModelConfig& config);

}  // namespace teq::verify
