#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::text {

/// Windows of token ids, all of one length.
struct Windows {
  std::int64_t count = 0;
  std::int64_t length = 0;
  std::vector<std::int32_t> ids;  // [count, length], row-major
  std::int64_t short_lines = 0;   // of ids, that were read and left out
};

/// Evaluation, as in the GPTQ paper: the text is tokenized whole, once, with the tokenizer's
/// special tokens at its start (not its end), and cut into non-overlapping windows; a shorter tail
/// is dropped. In a `.jsonl` file every line is an object with `text`, or with `input_ids`: a line
/// of text is tokenized as a text of its own, and the texts' tokens are concatenated; a line of ids
/// is a window of its own, cut to `length` (shorter lines are dropped), and text lines and id lines
/// do not mix. A `.safetensors` file holds ids: see IdTensor.
///
/// With `prefix_in_every_window` a window of text whose tokens do not begin with the tokenizer's
/// special tokens has these first, and as many fewer of the text: see ModelConfig. The text goes on
/// in the next window where it ended. Windows of ids stay as they are given.
///
/// NOT_FOUND, TEXT_NOT_FOUND. INVALID_ARGUMENT: TEXT_TOO_SHORT (names tokens found and needed),
/// INVALID_TEXT (file, line or tensor and what is wrong; an id not below `vocabulary_size`),
/// INVALID_SPEC (a `length` with no room for text).
[[nodiscard]] absl::StatusOr<Windows> ReadEvaluationWindows(const std::filesystem::path& file,
                                                            const Tokenizer& tokenizer,
                                                            std::int64_t vocabulary_size,
                                                            std::int64_t length,
                                                            bool prefix_in_every_window = false);

/// Calibration: the windows of evaluation, of which `samples` are chosen by `seed` without
/// repetition, in the order of the text. Fewer windows than samples: all of them. Of long files
/// only the chosen places are read (SampleWindows says how, IsSampled which), and of a
/// `.safetensors` file only the chosen windows. The same errors.
[[nodiscard]] absl::StatusOr<Windows> ReadCalibrationWindows(
    const std::filesystem::path& file, const Tokenizer& tokenizer, std::int64_t vocabulary_size,
    std::int64_t length, std::int64_t samples, std::int64_t seed,
    bool prefix_in_every_window = false);

}  // namespace teq::text
