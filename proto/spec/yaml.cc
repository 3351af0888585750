#include "proto/spec/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>

#include "proto/spec/json.h"

namespace teq {
namespace {

using Json = nlohmann::ordered_json;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

template <typename T>
std::optional<T> Parse(std::string_view digits, int base) {
  T value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

// A decimal integer or floating-point number; JSON's grammar is narrower than YAML's ("+1", ".5").
std::optional<Json> ReadDecimal(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const std::string_view unsigned_text = text.starts_with('-') ? text.substr(1) : text;
  const auto is_number_char = [](char c) {
    return IsDigit(c) || std::string_view(".eE+-").find(c) != std::string_view::npos;
  };
  if (unsigned_text.empty() || (!IsDigit(unsigned_text[0]) && unsigned_text[0] != '.') ||
      !std::ranges::all_of(unsigned_text, is_number_char)) {
    return std::nullopt;
  }
  if (const auto value = Parse<std::int64_t>(text, 10)) return Json(*value);
  if (const auto value = Parse<std::uint64_t>(text, 10)) return Json(*value);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) {
    return Json(std::numeric_limits<double>::infinity());
  }
  return error == std::errc() ? std::optional<Json>(value) : std::nullopt;
}

bool IsOneOf(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::ranges::find(words, text) != words.end();
}

// Whether every YAML reader takes the plain text for a string.
bool IsSafePlain(std::string_view text) {
  const auto is_plain = [](char c) {
    return IsDigit(c) || IsLetter(c) || std::string_view("_./:-").find(c) != std::string_view::npos;
  };
  if (text.empty() || !IsLetter(text.front()) || text.back() == ':') return false;
  if (!std::ranges::all_of(text, is_plain)) return false;
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return IsLetter(c) ? static_cast<char>(c | 0x20) : c; });
  return !IsOneOf(lower, {"true", "false", "null", "yes", "no", "on", "off", "y", "n"});
}

void Write(const Json& json, YAML::Emitter& out) {
  if (json.is_structured() && json.empty()) {
    out << YAML::Flow;
  }
  if (json.is_object()) {
    out << YAML::BeginMap;
    for (const auto& [name, value] : json.items()) {
      out << YAML::Key;
      Write(Json(name), out);
      out << YAML::Value;
      Write(value, out);
    }
    out << YAML::EndMap;
  } else if (json.is_array()) {
    out << YAML::BeginSeq;
    for (const Json& item : json) Write(item, out);
    out << YAML::EndSeq;
  } else if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    if (!IsSafePlain(text)) out << YAML::DoubleQuoted;
    out << text;
  } else if (json.is_null()) {
    out << YAML::Null;  // the text "null" would be quoted
  } else {
    out << json.dump();
  }
}

}  // namespace

Json ReadPlainScalar(std::string_view text) {
  if (IsOneOf(text, {"", "~", "null", "Null", "NULL"})) return nullptr;
  if (IsOneOf(text, {"true", "True", "TRUE"})) return true;
  if (IsOneOf(text, {"false", "False", "FALSE"})) return false;
  if (IsOneOf(text, {".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"})) {
    return std::numeric_limits<double>::infinity();
  }
  if (IsOneOf(text, {"-.inf", "-.Inf", "-.INF"})) return -std::numeric_limits<double>::infinity();
  if (IsOneOf(text, {".nan", ".NaN", ".NAN"})) return std::numeric_limits<double>::quiet_NaN();
  if (text.starts_with("0x") || text.starts_with("0o")) {
    const auto value = Parse<std::uint64_t>(text.substr(2), text[1] == 'x' ? 16 : 8);
    return value ? Json(*value) : Json(text);
  }
  if (const auto number = ReadDecimal(text)) return *number;
  return text;
}

Json ReadYamlTexts(std::string_view text) {
  Json object;
  try {
    const YAML::Node root = YAML::Load(std::string(text));
    if (!root.IsMap()) return nullptr;
    object = Json::object();
    for (const auto& entry : root) {
      if (!entry.first.IsScalar()) continue;
      if (entry.second.IsScalar()) object[entry.first.Scalar()] = entry.second.Scalar();
      if (!entry.second.IsSequence()) continue;
      Json& list = object[entry.first.Scalar()] = Json::array();
      for (const YAML::Node& item : entry.second) {
        if (item.IsScalar()) list.push_back(item.Scalar());
      }
    }
  } catch (const YAML::Exception&) {
    return nullptr;
  }
  return object;
}

std::string WriteYaml(const Json& json) {
  YAML::Emitter out;
  Write(json, out);
  return std::string(out.c_str(), out.size()) + "\n";
}

std::string ToYaml(const google::protobuf::Message& message) { return WriteYaml(ToJson(message)); }

}  // namespace teq
