#include "worker/engine/text/windows.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

absl::Status InvalidText(std::string_view where, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TEXT",
               fmt::format("{}: {}", where, what));
}

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status)) {
    return Error(absl::StatusCode::kNotFound, "TEXT_NOT_FOUND",
                 fmt::format("{}: no such file", file.string()));
  }
  if (std::filesystem::is_directory(status)) {
    return InvalidText(file.string(), "is a directory; name a text file or a .jsonl file");
  }
  std::ifstream stream(file, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(stream)), {});
  if (!stream) return InvalidText(file.string(), "cannot be read; check its permissions");
  return bytes;
}

// What a file's tokens are: one stream that is cut into windows, or windows of their own.
struct Tokens {
  std::vector<std::int32_t> stream;
  std::vector<std::vector<std::int32_t>> lines;
  std::size_t longest_line = 0;
};

struct Reader {
  const Tokenizer& tokenizer;
  std::int64_t vocabulary_size;
  std::int64_t length;
  Tokens tokens;

  absl::Status Append(std::string_view where, std::string_view text) {
    TEQ_ASSIGN_OR_RETURN(const auto ids, tokenizer.Encode(text));
    for (const auto* part : {&tokenizer.prefix(), &ids}) {
      for (const std::int32_t id : *part) {
        if (id >= vocabulary_size) {
          return InvalidText(where, fmt::format("the tokenizer gives the id {}, but the model has "
                                                "only {} tokens; it belongs to another model",
                                                id, vocabulary_size));
        }
      }
      tokens.stream.insert(tokens.stream.end(), part->begin(), part->end());
    }
    return absl::OkStatus();
  }

  absl::Status AppendIds(std::string_view where, const nlohmann::json& list) {
    if (!list.is_array()) return InvalidText(where, "input_ids is not a list");
    std::vector<std::int32_t> ids;
    for (const auto& value : list) {
      if (!value.is_number_unsigned() ||
          value.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary_size)) {
        return InvalidText(
            where,
            fmt::format("input_ids holds {}, which is no id below the vocabulary's "
                        "size {}",
                        value.is_number() ? value.dump() : value.type_name(), vocabulary_size));
      }
      ids.push_back(value.get<std::int32_t>());
    }
    tokens.longest_line = std::max(tokens.longest_line, ids.size());
    if (ids.size() < static_cast<std::size_t>(length)) return absl::OkStatus();
    ids.resize(static_cast<std::size_t>(length));
    tokens.lines.push_back(std::move(ids));
    return absl::OkStatus();
  }

  absl::Status AppendLine(std::string_view where, std::string_view line, bool& has_ids) {
    const auto json = ParseJson(line);
    if (!json.ok()) return InvalidText(where, std::string(json.status().message()));
    has_ids = json->is_object() && json->contains("input_ids");
    const bool has_text = json->is_object() && json->contains("text");
    if (has_ids == has_text) {
      return InvalidText(where, "must be an object with either text or input_ids");
    }
    if (has_ids) return AppendIds(where, (*json)["input_ids"]);
    const auto& text = (*json)["text"];
    if (!text.is_string()) return InvalidText(where, "text is not a string");
    return Append(where, text.get_ref<const std::string&>());
  }

  absl::Status AppendLines(const std::filesystem::path& file, std::string_view bytes) {
    std::optional<bool> file_has_ids;
    for (int number = 1; !bytes.empty(); ++number) {
      const std::string_view line = bytes.substr(0, bytes.find('\n'));
      bytes.remove_prefix(std::min(bytes.size(), line.size() + 1));
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const std::string where = fmt::format("{}:{}", file.string(), number);
      bool has_ids = false;
      TEQ_RETURN_IF_ERROR(AppendLine(where, line, has_ids));
      if (file_has_ids.value_or(has_ids) != has_ids) {
        return InvalidText(where, "lines with text and lines with input_ids do not mix");
      }
      file_has_ids = has_ids;
    }
    return absl::OkStatus();
  }
};

absl::StatusOr<Windows> Cut(const std::filesystem::path& file, const Tokens& tokens,
                            std::int64_t length) {
  Windows windows{.length = length};
  if (!tokens.lines.empty()) {
    windows.count = static_cast<std::int64_t>(tokens.lines.size());
    for (const auto& line : tokens.lines) {
      windows.ids.insert(windows.ids.end(), line.begin(), line.end());
    }
    return windows;
  }
  windows.count = static_cast<std::int64_t>(tokens.stream.size()) / length;
  if (windows.count == 0) {
    const std::size_t found = std::max(tokens.stream.size(), tokens.longest_line);
    return Error(
        absl::StatusCode::kInvalidArgument, "TEXT_TOO_SHORT",
        fmt::format("{}: has {} tokens{}, and one window needs {}; give a longer text or a "
                    "smaller sequence_length",
                    file.string(), found, tokens.longest_line > 0 ? " in its longest line" : "",
                    length));
  }
  windows.ids.assign(tokens.stream.begin(), tokens.stream.begin() + windows.count * length);
  return windows;
}

// Numbers below `bound`, each as likely, the same everywhere: what std::uniform_int_distribution
// gives is each library's own choice.
std::uint64_t DrawBelow(std::uint64_t bound, std::mt19937_64& random) {
  const std::uint64_t excess = (std::mt19937_64::max() % bound + 1) % bound;
  std::uint64_t draw = random();
  while (draw > std::mt19937_64::max() - excess) draw = random();
  return draw % bound;
}

// `samples` of the numbers below `count`, ascending.
std::vector<std::int64_t> Choose(std::int64_t count, std::int64_t samples, std::int64_t seed) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  for (std::int64_t i = 0; i < samples; ++i) {
    const auto other =
        i + static_cast<std::int64_t>(DrawBelow(static_cast<std::uint64_t>(count - i), random));
    std::swap(numbers[static_cast<std::size_t>(i)], numbers[static_cast<std::size_t>(other)]);
  }
  numbers.resize(static_cast<std::size_t>(samples));
  std::ranges::sort(numbers);
  return numbers;
}

}  // namespace

absl::StatusOr<Windows> ReadEvaluationWindows(const std::filesystem::path& file,
                                              const Tokenizer& tokenizer,
                                              std::int64_t vocabulary_size, std::int64_t length) {
  if (length <= 0) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_SPEC",
                 fmt::format("sequence_length is {}; it must be positive", length));
  }
  TEQ_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
  // A file may be cut in the middle of a character, or hold a stray byte: neither is worth a failed
  // job.
  const std::string text = RepairUtf8(bytes);
  Reader reader{tokenizer, vocabulary_size, length, {}};
  if (file.extension() == ".jsonl") {
    TEQ_RETURN_IF_ERROR(reader.AppendLines(file, text));
  } else if (!text.empty()) {
    TEQ_RETURN_IF_ERROR(reader.Append(file.string(), text));
  }
  return Cut(file, reader.tokens, length);
}

absl::StatusOr<Windows> ReadCalibrationWindows(const std::filesystem::path& file,
                                               const Tokenizer& tokenizer,
                                               std::int64_t vocabulary_size, std::int64_t length,
                                               std::int64_t samples, std::int64_t seed) {
  TEQ_ASSIGN_OR_RETURN(Windows all,
                       ReadEvaluationWindows(file, tokenizer, vocabulary_size, length));
  if (samples >= all.count) return all;
  Windows chosen{.count = std::max<std::int64_t>(samples, 0), .length = length};
  for (const std::int64_t number : Choose(all.count, chosen.count, seed)) {
    const auto begin = all.ids.begin() + number * length;
    chosen.ids.insert(chosen.ids.end(), begin, begin + length);
  }
  return chosen;
}

}  // namespace teq::text
