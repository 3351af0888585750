#include "worker/engine/text/windows.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/data_error.h"
#include "worker/engine/text/data_file.h"
#include "worker/engine/text/id_tensor.h"
#include "worker/engine/text/json_lines.h"
#include "worker/engine/text/next_window.h"
#include "worker/engine/text/sampled_windows.h"
#include "worker/engine/text/seeded_choice.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

// What a file's tokens are: one stream that is cut into windows, or windows of their own.
struct Tokens {
  std::vector<std::int32_t> stream;
  std::vector<std::vector<std::int32_t>> lines;
  std::size_t longest_line = 0;
  std::int64_t short_lines = 0;
};

struct Reader {
  const Tokenizer& tokenizer;
  std::int64_t vocabulary_size;
  std::size_t length;
  Tokens tokens;
  std::optional<std::size_t> kind;  // of the lines, an index of DataLine

  absl::Status Append(std::string_view where, std::string_view text) {
    TEQ_ASSIGN_OR_RETURN(const auto ids,
                         EncodeText(tokenizer, "INVALID_TEXT", where, text, vocabulary_size));
    for (const auto* part : {&tokenizer.prefix(), &ids}) {
      tokens.stream.insert(tokens.stream.end(), part->begin(), part->end());
    }
    return absl::OkStatus();
  }

  void AppendIds(std::vector<std::int32_t> ids) {
    tokens.longest_line = std::max(tokens.longest_line, ids.size());
    if (ids.size() < length) {
      ++tokens.short_lines;
      return;
    }
    ids.resize(length);
    tokens.lines.push_back(std::move(ids));
  }

  absl::Status AppendLine(std::string_view where, const nlohmann::json& json) {
    TEQ_ASSIGN_OR_RETURN(DataLine line, ParseDataLine(where, json, vocabulary_size));
    if (kind.value_or(line.index()) != line.index()) {
      return DataError("INVALID_TEXT", where,
                       "lines with text and lines with input_ids do not mix; give two files");
    }
    kind = line.index();
    if (const auto* text = std::get_if<std::string>(&line)) return Append(where, *text);
    AppendIds(std::get<std::vector<std::int32_t>>(std::move(line)));
    return absl::OkStatus();
  }
};

// A compressed or binary file, or text in another encoding, would only be noise to a model.
absl::Status CheckIsText(const DataFile& file) {
  constexpr std::uint64_t kLooked = std::uint64_t{64} << 10;
  constexpr std::size_t kTolerated = 16;
  TEQ_ASSIGN_OR_RETURN(const std::string bytes, file.Read(0, kLooked));
  const std::string text = RepairUtf8(bytes);
  std::size_t strange = static_cast<std::size_t>(std::ranges::count(text, '\0'));
  for (std::size_t at = text.find(kReplacementCharacter); at != std::string::npos;
       at = text.find(kReplacementCharacter, at + 1)) {
    ++strange;
  }
  if (strange <= kTolerated || strange < bytes.size() / 10) return absl::OkStatus();
  return DataError("INVALID_TEXT", file.path().string(),
                   fmt::format("is no text: of its first {} bytes, {} are NUL or not UTF-8; give "
                               "UTF-8 text (iconv -t UTF-8 converts, gunzip unpacks), .jsonl or "
                               ".safetensors",
                               bytes.size(), strange));
}

absl::StatusOr<Windows> Cut(const std::filesystem::path& file, const Tokens& tokens,
                            std::int64_t length, std::span<const std::int32_t> window_prefix) {
  Windows windows{.length = length, .short_lines = tokens.short_lines};
  if (!tokens.lines.empty()) {
    windows.count = static_cast<std::int64_t>(tokens.lines.size());
    for (const auto& line : tokens.lines) {
      windows.ids.insert(windows.ids.end(), line.begin(), line.end());
    }
    return windows;
  }
  std::span<const std::int32_t> rest = tokens.stream;
  windows.ids.reserve(rest.size() +
                      rest.size() / static_cast<std::size_t>(length) * window_prefix.size());
  while (true) {
    const std::size_t taken =
        TakeWindow(rest, window_prefix, static_cast<std::size_t>(length), windows.ids);
    if (taken == 0) break;
    rest = rest.subspan(taken);
    ++windows.count;
  }
  if (windows.count == 0) {
    const bool has_lines = tokens.longest_line > 0;
    return TooShort(
        file,
        fmt::format("{} tokens{}", has_lines ? tokens.longest_line : tokens.stream.size(),
                    has_lines ? " in its longest line" : ""),
        length);
  }
  return windows;
}

absl::StatusOr<Windows> CutWhole(const DataFile& file, const Tokenizer& tokenizer,
                                 std::int64_t vocabulary_size, std::int64_t length,
                                 std::span<const std::int32_t> window_prefix) {
  TEQ_ASSIGN_OR_RETURN(const std::string bytes, file.Read(0, file.size()));
  // A file may be cut in the middle of a character, or hold a stray byte: neither is worth a failed
  // job.
  const std::string text = RepairUtf8(bytes);
  const std::string name = file.path().string();
  Reader reader{tokenizer, vocabulary_size, static_cast<std::size_t>(length), {}, {}};
  if (file.path().extension() == ".jsonl") {
    TEQ_RETURN_IF_ERROR(ForEachJsonLine(
        name, text, "INVALID_TEXT", [&reader](std::string_view where, const nlohmann::json& line) {
          return reader.AppendLine(where, line);
        }));
  } else if (!text.empty()) {
    TEQ_RETURN_IF_ERROR(reader.Append(name, text));
  }
  return Cut(file.path(), reader.tokens, length, window_prefix);
}

// A text or .jsonl file.
absl::StatusOr<DataFile> OpenText(const std::filesystem::path& path) {
  TEQ_ASSIGN_OR_RETURN(DataFile file, DataFile::Open(path));
  if (path.extension() != ".jsonl") TEQ_RETURN_IF_ERROR(CheckIsText(file));
  return file;
}

absl::Status CheckLength(std::int64_t length) {
  if (length > 0) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_SPEC",
               fmt::format("sequence_length is {}; it must be positive", length));
}

// What every window of text begins with; nothing where only texts begin with it.
absl::StatusOr<std::span<const std::int32_t>> WindowPrefix(const Tokenizer& tokenizer,
                                                           std::int64_t length,
                                                           bool prefix_in_every_window) {
  std::span<const std::int32_t> prefix;
  if (prefix_in_every_window) prefix = tokenizer.prefix();
  if (std::ssize(prefix) < length) return prefix;
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_SPEC",
               fmt::format("sequence_length is {}, and every window begins with the tokenizer's {} "
                           "special tokens; give a larger one",
                           length, prefix.size()));
}

bool IsIdTensor(const std::filesystem::path& file) { return file.extension() == ".safetensors"; }

// The windows of a tensor that `samples` and `seed` choose.
absl::StatusOr<Windows> ChooseRows(const std::filesystem::path& file, std::int64_t vocabulary_size,
                                   std::int64_t length, std::optional<std::int64_t> samples,
                                   std::int64_t seed) {
  TEQ_ASSIGN_OR_RETURN(const IdTensor tensor, IdTensor::Open(file, length));
  Windows windows{.length = length};
  for (const std::int64_t number :
       ChooseBelow(tensor.count(), samples.value_or(tensor.count()), seed)) {
    TEQ_RETURN_IF_ERROR(tensor.Read(number, vocabulary_size, windows.ids));
    ++windows.count;
  }
  return windows;
}

}  // namespace

absl::StatusOr<Windows> ReadEvaluationWindows(const std::filesystem::path& file,
                                              const Tokenizer& tokenizer,
                                              std::int64_t vocabulary_size, std::int64_t length,
                                              bool prefix_in_every_window) {
  TEQ_RETURN_IF_ERROR(CheckLength(length));
  if (IsIdTensor(file)) return ChooseRows(file, vocabulary_size, length, std::nullopt, 0);
  TEQ_ASSIGN_OR_RETURN(const auto window_prefix,
                       WindowPrefix(tokenizer, length, prefix_in_every_window));
  TEQ_ASSIGN_OR_RETURN(const DataFile text, OpenText(file));
  return CutWhole(text, tokenizer, vocabulary_size, length, window_prefix);
}

absl::StatusOr<Windows> ReadCalibrationWindows(const std::filesystem::path& file,
                                               const Tokenizer& tokenizer,
                                               std::int64_t vocabulary_size, std::int64_t length,
                                               std::int64_t samples, std::int64_t seed,
                                               bool prefix_in_every_window) {
  TEQ_RETURN_IF_ERROR(CheckLength(length));
  if (IsIdTensor(file)) return ChooseRows(file, vocabulary_size, length, samples, seed);
  TEQ_ASSIGN_OR_RETURN(const auto window_prefix,
                       WindowPrefix(tokenizer, length, prefix_in_every_window));
  TEQ_ASSIGN_OR_RETURN(const DataFile text, OpenText(file));
  if (samples > 0 && IsSampled(text.size(), length, samples)) {
    return SampleWindows(text, tokenizer, vocabulary_size, length, samples, seed, window_prefix);
  }
  TEQ_ASSIGN_OR_RETURN(Windows all,
                       CutWhole(text, tokenizer, vocabulary_size, length, window_prefix));
  if (samples >= all.count) return all;
  Windows chosen{.count = std::max<std::int64_t>(samples, 0),
                 .length = length,
                 .short_lines = all.short_lines};
  for (const std::int64_t number : ChooseBelow(all.count, chosen.count, seed)) {
    const auto begin = all.ids.begin() + number * length;
    chosen.ids.insert(chosen.ids.end(), begin, begin + length);
  }
  return chosen;
}

}  // namespace teq::text
