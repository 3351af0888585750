#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "worker/engine/text/data_file.h"
#include "worker/engine/text/tokenizer.h"
#include "worker/engine/text/windows.h"

namespace teq::text {

/// Whether a text of `bytes` is so long that its windows are sampled instead of cut: more than
/// 8 MiB, and 32 bytes for every token that is asked for.
[[nodiscard]] bool IsSampled(std::uint64_t bytes, std::int64_t length, std::int64_t samples);

/// Windows from places of a long text or .jsonl file, of which only these places are read. The file
/// is divided into `samples` equal parts; a window begins at the first line that begins behind a
/// place in the first half of each, drawn by `seed`, and takes as many lines as it needs. Where the
/// window before reached that far it goes on where that ended, so none overlap. A place without
/// enough tokens in the following megabyte, or 64 bytes a token, gives none, and neither does the
/// file's end: there may be fewer windows than samples. Text without line ends is cut between
/// characters. Only a window at the file's beginning, and every line of a .jsonl file, has the
/// tokenizer's special tokens before it; and where `window_prefix` is not empty, every window of
/// text begins with that. Short lines of ids are counted as far as they were read.
///
/// INVALID_ARGUMENT: TEXT_TOO_SHORT where there is no window, INVALID_TEXT.
[[nodiscard]] absl::StatusOr<Windows> SampleWindows(const DataFile& file,
                                                    const Tokenizer& tokenizer,
                                                    std::int64_t vocabulary_size,
                                                    std::int64_t length, std::int64_t samples,
                                                    std::int64_t seed,
                                                    std::span<const std::int32_t> window_prefix);

}  // namespace teq::text
