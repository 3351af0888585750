#include "worker/engine/text/sampled_windows.h"

#include <algorithm>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/data_error.h"
#include "worker/engine/text/json_lines.h"
#include "worker/engine/text/next_window.h"
#include "worker/engine/text/seeded_choice.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr std::uint64_t kReadWholeBytes = std::uint64_t{8} << 20;
constexpr std::uint64_t kSampledBytesPerToken = 32;
// What is read at once: about what a window needs.
constexpr std::uint64_t kChunkBytesPerToken = 8;
constexpr std::uint64_t kLeastChunkBytes = 4096;
constexpr std::uint64_t kMostLineBytes = std::uint64_t{16} << 20;
constexpr std::size_t kMostCharacterBytes = 4;
// Where a window is given up.
constexpr std::uint64_t kLeastPatienceBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kPatienceBytesPerToken = 64;

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// The tokens of a file from a place on.
class TokenStream {
 public:
  TokenStream(const DataFile& file, const Tokenizer& tokenizer, std::int64_t vocabulary_size,
              std::int64_t length, std::span<const std::int32_t> window_prefix)
      : file_(file),
        tokenizer_(tokenizer),
        vocabulary_size_(vocabulary_size),
        length_(static_cast<std::size_t>(length)),
        window_prefix_(window_prefix),
        is_jsonl_(file.path().extension() == ".jsonl") {}

  // Goes on at the first line that begins at `place` or later; where that was read already, where
  // the last window ended.
  absl::Status GoTo(std::uint64_t place) {
    if (place < at_) return absl::OkStatus();
    tokens_.clear();
    taken_ = 0;
    at_ = place;
    if (place == 0) return absl::OkStatus();
    std::uint64_t size = kLeastChunkBytes;
    while (true) {
      TEQ_ASSIGN_OR_RETURN(const std::string bytes, file_.Read(place - 1, size + 1));
      const std::size_t line_end = bytes.find('\n');
      const bool is_rest = place - 1 + bytes.size() == file_.size();
      if (line_end != std::string::npos) {
        at_ = place + line_end;
        return absl::OkStatus();
      }
      if (!is_jsonl_) {
        std::size_t skipped = 1;
        while (skipped < bytes.size() && IsContinuation(bytes[skipped])) ++skipped;
        at_ = place - 1 + skipped;
        return absl::OkStatus();
      }
      if (is_rest) {
        at_ = file_.size();
        return absl::OkStatus();
      }
      if (size >= kMostLineBytes) return LineTooLong(place);
      size *= 4;
    }
  }

  // Appends the ids of the next window; false where there is none.
  absl::StatusOr<bool> Take(std::vector<std::int32_t>& ids) {
    const std::uint64_t patience =
        std::max<std::uint64_t>(kLeastPatienceBytes, kPatienceBytesPerToken * length_);
    const std::uint64_t begin = at_;
    while (true) {
      const auto rest = std::span<const std::int32_t>(tokens_).subspan(taken_);
      const std::size_t taken = TakeWindow(rest, window_prefix_, length_, ids);
      taken_ += taken;
      if (taken > 0) return true;
      if (at_ >= file_.size() || at_ - begin > patience) return false;
      TEQ_RETURN_IF_ERROR(Fill());
    }
  }

  [[nodiscard]] std::int64_t short_lines() const { return short_lines_; }

 private:
  absl::Status LineTooLong(std::uint64_t place) const {
    return DataError(
        "INVALID_TEXT", file_.path().string(),
        fmt::format("the line at byte {} has more than {} bytes; split it", place, kMostLineBytes));
  }

  // The next whole lines; of text without line ends, characters.
  absl::StatusOr<std::string> ReadLines() {
    std::uint64_t size = std::max<std::uint64_t>(kLeastChunkBytes, kChunkBytesPerToken * length_);
    while (true) {
      TEQ_ASSIGN_OR_RETURN(std::string bytes, file_.Read(at_, size));
      if (at_ + bytes.size() < file_.size()) {
        const std::size_t line_end = bytes.rfind('\n');
        if (line_end != std::string::npos) {
          bytes.resize(line_end + 1);
        } else if (!is_jsonl_) {
          bytes.resize(bytes.size() - std::min(LastCharacterSize(bytes), kMostCharacterBytes));
        } else if (size >= kMostLineBytes) {
          return LineTooLong(at_);
        } else {
          size *= 4;
          continue;
        }
      }
      at_ += bytes.size();
      return bytes;
    }
  }

  absl::Status Fill() {
    tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(taken_));
    taken_ = 0;
    const std::uint64_t begin = at_;
    const std::string where = fmt::format("{} from byte {}", file_.path().string(), begin);
    TEQ_ASSIGN_OR_RETURN(const std::string bytes, ReadLines());
    const std::string text = RepairUtf8(bytes);
    if (!is_jsonl_) return Append(where, text, /*is_beginning=*/begin == 0);
    return ForEachJsonLine(where, text, "INVALID_TEXT",
                           [this](std::string_view line, const nlohmann::json& json) {
                             return AppendLine(line, json);
                           });
  }

  absl::Status AppendLine(std::string_view where, const nlohmann::json& json) {
    TEQ_ASSIGN_OR_RETURN(const DataLine line, ParseDataLine(where, json, vocabulary_size_));
    if (kind_.value_or(line.index()) != line.index()) {
      return DataError("INVALID_TEXT", where,
                       "lines with text and lines with input_ids do not mix; give two files");
    }
    kind_ = line.index();
    if (const auto* text = std::get_if<std::string>(&line)) {
      return Append(where, *text, /*is_beginning=*/true);
    }
    window_prefix_ = {};
    const auto& ids = std::get<std::vector<std::int32_t>>(line);
    if (ids.size() < length_) {
      ++short_lines_;
    } else {
      tokens_.insert(tokens_.end(), ids.begin(),
                     ids.begin() + static_cast<std::ptrdiff_t>(length_));
    }
    return absl::OkStatus();
  }

  absl::Status Append(std::string_view where, std::string_view text, bool is_beginning) {
    TEQ_ASSIGN_OR_RETURN(const auto ids,
                         EncodeText(tokenizer_, "INVALID_TEXT", where, text, vocabulary_size_));
    const auto& prefix = tokenizer_.prefix();
    if (is_beginning) tokens_.insert(tokens_.end(), prefix.begin(), prefix.end());
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    return absl::OkStatus();
  }

  const DataFile& file_;
  const Tokenizer& tokenizer_;
  std::int64_t vocabulary_size_;
  std::size_t length_;
  std::span<const std::int32_t> window_prefix_;  // none for lines of ids
  bool is_jsonl_;
  std::uint64_t at_ = 0;              // what is read next
  std::vector<std::int32_t> tokens_;  // read
  std::size_t taken_ = 0;             // of them
  std::int64_t short_lines_ = 0;
  std::optional<std::size_t> kind_;  // of the lines, an index of DataLine
};

}  // namespace

bool IsSampled(std::uint64_t bytes, std::int64_t length, std::int64_t samples) {
  const auto parts = static_cast<std::uint64_t>(std::max<std::int64_t>(samples, 1));
  return bytes > kReadWholeBytes &&
         bytes / parts >= kSampledBytesPerToken * static_cast<std::uint64_t>(length);
}

absl::StatusOr<Windows> SampleWindows(const DataFile& file, const Tokenizer& tokenizer,
                                      std::int64_t vocabulary_size, std::int64_t length,
                                      std::int64_t samples, std::int64_t seed,
                                      std::span<const std::int32_t> window_prefix) {
  TokenStream stream(file, tokenizer, vocabulary_size, length, window_prefix);
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  const std::uint64_t part = file.size() / static_cast<std::uint64_t>(samples);
  Windows windows{.length = length};
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::uint64_t place = part * static_cast<std::uint64_t>(i) + DrawBelow(part / 2, random);
    TEQ_RETURN_IF_ERROR(stream.GoTo(place));
    TEQ_ASSIGN_OR_RETURN(const bool taken, stream.Take(windows.ids));
    windows.count += taken ? 1 : 0;
  }
  windows.short_lines = stream.short_lines();
  if (windows.count == 0) {
    return TooShort(file.path(), fmt::format("fewer tokens at each of {} places", samples), length);
  }
  return windows;
}

}  // namespace teq::text
