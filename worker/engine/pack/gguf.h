#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/pack/packable_model.h"

namespace teq::pack {

/// Writes a directory of one file, model.gguf, which llama.cpp needs nothing beside: weights,
/// metadata and tokenizer. Returns its sha256, of the bytes that were to be written.
///
/// INVALID_ARGUMENT, FORMAT_CANNOT_HOLD, where model_info::CheckGguf would refuse, and for the
/// tokenizers that only their files' content tells; NOT_REPRESENTABLE as EncodeBlocks.
/// RESOURCE_EXHAUSTED, DISK_FULL. An error leaves no file.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> WriteGgufDirectory(
    const PackableModel& model, const std::filesystem::path& directory);

/// Whether a model's tokenizer can be written so: the errors of WriteGgufDirectory that are about
/// it.
[[nodiscard]] absl::Status CheckGgufTokenizer(const std::filesystem::path& source,
                                              const model_info::ModelConfig& config);

}  // namespace teq::pack
