#include "worker/engine/text/json_lines.h"

#include <algorithm>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/data_error.h"
#include "worker/engine/text/json_part.h"

namespace teq::text {
namespace {

absl::Status Invalid(std::string_view where, std::string_view what) {
  return DataError("INVALID_TEXT", where, what);
}

absl::StatusOr<std::vector<std::int32_t>> ParseIds(std::string_view where,
                                                   const nlohmann::json& list,
                                                   std::int64_t vocabulary_size) {
  if (!list.is_array()) return Invalid(where, "input_ids is not a list");
  std::vector<std::int32_t> ids;
  ids.reserve(list.size());
  for (const auto& value : list) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary_size)) {
      return Invalid(where, fmt::format("input_ids holds {}, which is no id below the vocabulary's "
                                        "size {}",
                                        value.is_number() ? value.dump() : value.type_name(),
                                        vocabulary_size));
    }
    ids.push_back(value.get<std::int32_t>());
  }
  return ids;
}

}  // namespace

absl::Status ForEachJsonLine(
    std::string_view name, std::string_view bytes, std::string_view reason,
    const std::function<absl::Status(std::string_view where, const nlohmann::json& line)>& use) {
  for (int number = 1; !bytes.empty(); ++number) {
    const std::string_view line = bytes.substr(0, bytes.find('\n'));
    bytes.remove_prefix(std::min(bytes.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", name, number);
    const auto json = ParseJson(line);
    if (!json.ok()) return DataError(reason, where, std::string(json.status().message()));
    TEQ_RETURN_IF_ERROR(use(where, *json));
  }
  return absl::OkStatus();
}

absl::StatusOr<DataLine> ParseDataLine(std::string_view where, const nlohmann::json& line,
                                       std::int64_t vocabulary_size) {
  const bool has_ids = line.is_object() && line.contains("input_ids");
  const bool has_text = line.is_object() && line.contains("text");
  if (has_ids == has_text) {
    return Invalid(where, "must be an object with either text or input_ids");
  }
  if (has_ids) return ParseIds(where, line["input_ids"], vocabulary_size);
  const auto& text = line["text"];
  if (!text.is_string()) return Invalid(where, "text is not a string");
  return text.get<std::string>();
}

}  // namespace teq::text
