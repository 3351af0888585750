#include "proto/spec/json.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "fmt/format.h"
#include "google/protobuf/any.pb.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/dynamic_message.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"
#include "proto/spec/utf8.h"

namespace teq {
namespace {

using google::protobuf::Any;
using google::protobuf::Descriptor;
using google::protobuf::Duration;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::Timestamp;
using google::protobuf::util::TimeUtil;
using Json = nlohmann::ordered_json;

constexpr std::string_view kTypeKey = "@type";
constexpr std::string_view kTypePrefix = "type.googleapis.com/";
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxViolations = 32;
constexpr std::size_t kMaxShown = 60;

// STATE_ for Job.State, FAILURE_CLASS_ for FailureClass.
std::string EnumPrefix(const EnumDescriptor* type) {
  std::string prefix;
  for (const char c : type->name()) {
    const bool upper = c >= 'A' && c <= 'Z';
    if (upper && !prefix.empty()) prefix += '_';
    prefix += upper || c < 'a' || c > 'z' ? c : static_cast<char>(c - 'a' + 'A');
  }
  return prefix + "_";
}

// An empty message of a type that the program knows.
std::unique_ptr<Message> NewMessage(std::string_view type_url) {
  if (!type_url.starts_with(kTypePrefix)) return nullptr;
  const std::string name(type_url.substr(kTypePrefix.size()));
  const Descriptor* type =
      google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(name);
  if (type == nullptr) return nullptr;
  const Message* prototype =
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type);
  return prototype == nullptr ? nullptr : std::unique_ptr<Message>(prototype->New());
}

// ---- Printing ----

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json PrintMessage(const Message& message, int depth);

// The value of a singular field, or of element `index` of a repeated one.
Json PrintValue(const Message& message, const FieldDescriptor* field, int index, int depth) {
  const Reflection* r = message.GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return repeated ? r->GetRepeatedInt32(message, field, index) : r->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return repeated ? r->GetRepeatedInt64(message, field, index) : r->GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return repeated ? r->GetRepeatedUInt32(message, field, index) : r->GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return repeated ? r->GetRepeatedUInt64(message, field, index) : r->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(repeated ? r->GetRepeatedDouble(message, field, index)
                             : r->GetDouble(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(repeated ? r->GetRepeatedFloat(message, field, index)
                             : r->GetFloat(message, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return repeated ? r->GetRepeatedBool(message, field, index) : r->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number = repeated ? r->GetRepeatedEnumValue(message, field, index)
                                  : r->GetEnumValue(message, field);
      if (field->enum_type()->FindValueByNumber(number) == nullptr) return number;
      return ShortEnumName(field->enum_type(), number);
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text =
          repeated ? r->GetRepeatedString(message, field, index) : r->GetString(message, field);
      if (field->type() != FieldDescriptor::TYPE_BYTES) return text;
      return absl::Base64Escape(text);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return PrintMessage(
          repeated ? r->GetRepeatedMessage(message, field, index) : r->GetMessage(message, field),
          depth + 1);
  }
  return nullptr;
}

// A map's keys in order, whatever order the memory has.
Json PrintMap(const Message& message, const FieldDescriptor* field, int depth) {
  const Reflection* r = message.GetReflection();
  const FieldDescriptor* key = field->message_type()->map_key();
  const FieldDescriptor* value = field->message_type()->map_value();
  std::map<std::string, Json> entries;
  for (int i = 0; i < r->FieldSize(message, field); ++i) {
    const Message& entry = r->GetRepeatedMessage(message, field, i);
    const Json name = PrintValue(entry, key, 0, depth);
    entries[name.is_string() ? name.get<std::string>() : name.dump()] =
        PrintValue(entry, value, 0, depth);
  }
  Json object = Json::object();
  for (auto& [name, json] : entries) object[name] = std::move(json);
  return object;
}

Json PrintAny(const Any& any, int depth) {
  Json object = {{kTypeKey, any.type_url()}};
  const std::unique_ptr<Message> content = NewMessage(any.type_url());
  if (content == nullptr || depth > kMaxDepth || !content->ParseFromString(any.value())) {
    object["value"] = absl::Base64Escape(any.value());
    return object;
  }
  Json json = PrintMessage(*content, depth + 1);
  if (!json.is_object()) {
    object["value"] = std::move(json);
    return object;
  }
  for (auto& [name, value] : json.items()) object[name] = std::move(value);
  return object;
}

Json PrintMessage(const Message& message, int depth) {
  const Descriptor* type = message.GetDescriptor();
  if (type == Timestamp::descriptor()) {
    return TimeUtil::ToString(static_cast<const Timestamp&>(message));
  }
  if (type == Duration::descriptor()) {
    return TimeUtil::ToString(static_cast<const Duration&>(message));
  }
  if (type == Any::descriptor()) return PrintAny(static_cast<const Any&>(message), depth);

  const Reflection* r = message.GetReflection();
  Json object = Json::object();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->has_presence() && !r->HasField(message, field)) continue;
    Json& json = object[field->name()];
    if (field->is_map()) {
      json = PrintMap(message, field, depth);
    } else if (field->is_repeated()) {
      json = Json::array();
      for (int k = 0; k < r->FieldSize(message, field); ++k) {
        json.push_back(PrintValue(message, field, k, depth));
      }
    } else {
      json = PrintValue(message, field, 0, depth);
    }
  }
  return object;
}

// ---- Reading ----

std::string Shown(const Json& json) {
  // JSON has no such numbers, YAML has.
  if (json.is_number_float() && !std::isfinite(json.get<double>())) {
    return fmt::format("{}", json.get<double>());
  }
  std::string text = json.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

std::string KnownFields(const Descriptor* type) {
  std::string names;
  for (int i = 0; i < type->field_count(); ++i) {
    names += (i == 0 ? "" : ", ") + type->field(i)->name();
  }
  return names.empty() ? "none" : names;
}

std::string KnownValues(const EnumDescriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->value_count(); ++i) {
    const int number = type->value(i)->number();
    if (number != 0) names.push_back(ShortEnumName(type, number));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

std::optional<Duration> ParseDuration(const std::string& text) {
  constexpr std::int64_t kLongest = TimeUtil::kDurationMaxSeconds;
  Duration duration;
  if (text.empty()) return std::nullopt;
  const char unit = text.back();
  if (unit == 's') {
    return TimeUtil::FromString(text, &duration) ? std::optional(duration) : std::nullopt;
  }
  const std::int64_t seconds = unit == 'm' ? 60 : unit == 'h' ? 3600 : unit == 'd' ? 86400 : 0;
  const std::string_view digits(text.data(), text.size() - 1);
  if (seconds == 0 || digits.empty() || digits.size() > 12) return std::nullopt;
  std::int64_t count = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    count = count * 10 + (c - '0');
  }
  if (count > kLongest / seconds) return std::nullopt;
  duration.set_seconds(count * seconds);
  return duration;
}

// Reads a whole tree and remembers everything that is wrong with it.
class Reader {
 public:
  void ReadMessage(const Json& json, const std::string& path, int depth, Message* message);

  [[nodiscard]] absl::Status Finish() const {
    return violations_.empty() ? absl::OkStatus() : InvalidFields("INVALID_JSON", violations_);
  }

 private:
  void Complain(const std::string& path, std::string description);
  void Expected(const std::string& path, std::string_view what, const Json& json) {
    Complain(path, fmt::format("expected {}, got {}", what, Shown(json)));
  }

  void ReadField(const Json& json, const std::string& path, int depth, Message* message,
                 const FieldDescriptor* field);
  void ReadMap(const Json& json, const std::string& path, int depth, Message* message,
               const FieldDescriptor* field);
  void ReadAny(const Json& json, const std::string& path, int depth, Any* any);
  bool ReadWellKnown(const Json& json, const std::string& path, int depth, Message* message);
  // Sets a singular field, or adds to a repeated one.
  void ReadValue(const Json& json, const std::string& path, int depth, Message* message,
                 const FieldDescriptor* field);

  template <typename T>
  std::optional<T> ReadInteger(const Json& json, const std::string& path);
  std::optional<double> ReadDouble(const Json& json, const std::string& path);
  std::optional<std::string> ReadString(const Json& json, const std::string& path,
                                        const FieldDescriptor* field);
  std::optional<int> ReadEnum(const Json& json, const std::string& path,
                              const EnumDescriptor* type);

  std::vector<google::rpc::BadRequest::FieldViolation> violations_;
};

void Reader::Complain(const std::string& path, std::string description) {
  if (violations_.size() >= kMaxViolations) return;
  google::rpc::BadRequest::FieldViolation violation;
  violation.set_field(path);
  violation.set_description(std::move(description));
  violations_.push_back(std::move(violation));
}

std::string Join(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : fmt::format("{}.{}", path, name);
}

template <typename T>
std::optional<T> Reader::ReadInteger(const Json& json, const std::string& path) {
  const auto out_of_range = [&]() -> std::optional<T> {
    Complain(path, fmt::format("{} is out of range; between {} and {}", Shown(json),
                               std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
    return std::nullopt;
  };
  if (json.is_number_unsigned()) {
    const auto value = json.get<std::uint64_t>();
    return std::in_range<T>(value) ? std::optional(static_cast<T>(value)) : out_of_range();
  }
  if (json.is_number_integer()) {
    const auto value = json.get<std::int64_t>();
    return std::in_range<T>(value) ? std::optional(static_cast<T>(value)) : out_of_range();
  }
  if (json.is_number_float()) {
    // Beyond 2^53 a double is no longer a whole number that somebody meant.
    const double value = json.get<double>();
    if (std::abs(value) > 9007199254740992.0) return out_of_range();
    if (value == std::floor(value)) {
      const auto whole = static_cast<std::int64_t>(value);
      return std::in_range<T>(whole) ? std::optional(static_cast<T>(whole)) : out_of_range();
    }
  }
  // protobuf's own JSON writes 64-bit integers as strings.
  if (sizeof(T) == 8 && json.is_string()) {
    const Json number = Json::parse(json.get<std::string>(), nullptr, /*allow_exceptions=*/false);
    if (number.is_number_integer()) return ReadInteger<T>(number, path);
  }
  Expected(path, "a whole number", json);
  return std::nullopt;
}

std::optional<double> Reader::ReadDouble(const Json& json, const std::string& path) {
  if (json.is_number() && std::isfinite(json.get<double>())) return json.get<double>();
  Expected(path, "a finite number", json);
  return std::nullopt;
}

std::optional<std::string> Reader::ReadString(const Json& json, const std::string& path,
                                              const FieldDescriptor* field) {
  if (!json.is_string()) {
    Expected(path, "a string", json);
    return std::nullopt;
  }
  auto text = json.get<std::string>();
  if (field->type() == FieldDescriptor::TYPE_BYTES) {
    std::string bytes;
    if (absl::Base64Unescape(text, &bytes)) return bytes;
    Expected(path, "base64", json);
    return std::nullopt;
  }
  if (!IsUtf8(text)) {
    Expected(path, "UTF-8 text", json);
    return std::nullopt;
  }
  return text;
}

std::optional<int> Reader::ReadEnum(const Json& json, const std::string& path,
                                    const EnumDescriptor* type) {
  if (json.is_number_integer()) return ReadInteger<std::int32_t>(json, path);
  if (json.is_string()) {
    const auto name = json.get<std::string>();
    const EnumValueDescriptor* value = type->FindValueByName(name);
    if (value == nullptr) value = type->FindValueByName(EnumPrefix(type) + name);
    if (value != nullptr) return value->number();
  }
  Complain(path, fmt::format("{} is not a known value; known: {}", Shown(json), KnownValues(type)));
  return std::nullopt;
}

// Calls the reflection's Set or Add of one type.
#define TEQ_STORE_(Type, value)                                                               \
  if (const auto stored = (value)) {                                                          \
    repeated ? r->Add##Type(message, field, *stored) : r->Set##Type(message, field, *stored); \
  }                                                                                           \
  return

void Reader::ReadValue(const Json& json, const std::string& path, int depth, Message* message,
                       const FieldDescriptor* field) {
  const Reflection* r = message->GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      TEQ_STORE_(Int32, ReadInteger<std::int32_t>(json, path));
    case FieldDescriptor::CPPTYPE_INT64:
      TEQ_STORE_(Int64, ReadInteger<std::int64_t>(json, path));
    case FieldDescriptor::CPPTYPE_UINT32:
      TEQ_STORE_(UInt32, ReadInteger<std::uint32_t>(json, path));
    case FieldDescriptor::CPPTYPE_UINT64:
      TEQ_STORE_(UInt64, ReadInteger<std::uint64_t>(json, path));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      TEQ_STORE_(Double, ReadDouble(json, path));
    case FieldDescriptor::CPPTYPE_FLOAT:
      TEQ_STORE_(Float, ReadDouble(json, path));
    case FieldDescriptor::CPPTYPE_ENUM:
      TEQ_STORE_(EnumValue, ReadEnum(json, path, field->enum_type()));
    case FieldDescriptor::CPPTYPE_STRING:
      TEQ_STORE_(String, ReadString(json, path, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!json.is_boolean()) return Expected(path, "true or false", json);
      repeated ? r->AddBool(message, field, json.get<bool>())
               : r->SetBool(message, field, json.get<bool>());
      return;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      ReadMessage(json, path, depth + 1,
                  repeated ? r->AddMessage(message, field) : r->MutableMessage(message, field));
      return;
  }
}
#undef TEQ_STORE_

void Reader::ReadMap(const Json& json, const std::string& path, int depth, Message* message,
                     const FieldDescriptor* field) {
  if (!json.is_object()) return Expected(path, "a map", json);
  const FieldDescriptor* key = field->message_type()->map_key();
  const FieldDescriptor* value = field->message_type()->map_value();
  for (const auto& [name, item] : json.items()) {
    const std::string item_path = Join(path, name);
    Message* entry = message->GetReflection()->AddMessage(message, field);
    const bool text_key = key->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    // Keys of other types are written as strings in JSON.
    const Json key_json = text_key ? Json(name) : Json::parse(name, nullptr, false);
    ReadValue(key_json, item_path, depth, entry, key);
    ReadValue(item, item_path, depth, entry, value);
  }
}

void Reader::ReadField(const Json& json, const std::string& path, int depth, Message* message,
                       const FieldDescriptor* field) {
  if (json.is_null()) {
    // "clipping:" with nothing after it looks as if it turned something off or on, and would do
    // neither.
    const bool is_choice = field->real_containing_oneof() != nullptr &&
                           field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    return Complain(path, is_choice
                              ? "has no value; write {} for its defaults, or leave the line out"
                              : "has no value; give it one, or leave the line out");
  }
  if (const auto* oneof = field->real_containing_oneof()) {
    const FieldDescriptor* other =
        message->GetReflection()->GetOneofFieldDescriptor(*message, oneof);
    if (other != nullptr) {
      return Complain(
          path, fmt::format("excludes {}, which is given too; keep one of them", other->name()));
    }
  }
  if (field->is_map()) return ReadMap(json, path, depth, message, field);
  if (!field->is_repeated()) return ReadValue(json, path, depth, message, field);
  if (!json.is_array()) return Expected(path, "a list", json);
  for (std::size_t i = 0; i < json.size(); ++i) {
    ReadValue(json[i], fmt::format("{}[{}]", path, i), depth, message, field);
  }
}

void Reader::ReadAny(const Json& json, const std::string& path, int depth, Any* any) {
  const auto type = json.is_object() ? json.find(kTypeKey) : json.end();
  if (!json.is_object() || type == json.end() || !type->is_string()) {
    return Expected(path, "an object with \"@type\"", json);
  }
  any->set_type_url(type->get<std::string>());
  const std::unique_ptr<Message> content = NewMessage(any->type_url());
  if (content == nullptr) {
    const auto value = json.find("value");
    std::string bytes;
    if (value == json.end() || !value->is_string() ||
        !absl::Base64Unescape(value->get<std::string>(), &bytes)) {
      return Expected(Join(path, "value"), "base64, because the type is not known", json);
    }
    any->set_value(bytes);
    return;
  }
  const Descriptor* known = content->GetDescriptor();
  const bool wrapped = known == Timestamp::descriptor() || known == Duration::descriptor() ||
                       known == Any::descriptor();
  Json fields = json;
  fields.erase(std::string(kTypeKey));
  ReadMessage(wrapped ? json.value("value", Json()) : fields, path, depth + 1, content.get());
  any->set_value(content->SerializeAsString());
}

bool Reader::ReadWellKnown(const Json& json, const std::string& path, int depth, Message* message) {
  const Descriptor* type = message->GetDescriptor();
  if (type == Any::descriptor()) {
    ReadAny(json, path, depth, static_cast<Any*>(message));
    return true;
  }
  const std::string text = json.is_string() ? json.get<std::string>() : std::string();
  if (type == Timestamp::descriptor()) {
    if (!TimeUtil::FromString(text, static_cast<Timestamp*>(message))) {
      Expected(path, "a time such as \"2026-01-31T12:00:00Z\"", json);
    }
    return true;
  }
  if (type == Duration::descriptor()) {
    if (const auto duration = ParseDuration(text)) {
      message->CopyFrom(*duration);
    } else {
      Expected(path, "a duration: a number and s, m, h or d, such as 90s, 15m, 6h or 7d", json);
    }
    return true;
  }
  return false;
}

void Reader::ReadMessage(const Json& json, const std::string& path, int depth, Message* message) {
  if (depth > kMaxDepth) return Complain(path, "is nested too deeply");
  if (ReadWellKnown(json, path, depth, message)) return;
  if (!json.is_object()) return Expected(path, "an object", json);
  const Descriptor* type = message->GetDescriptor();
  for (const auto& [name, value] : json.items()) {
    const FieldDescriptor* field = type->FindFieldByName(name);
    if (field == nullptr) {
      Complain(Join(path, name), fmt::format("unknown field; known: {}", KnownFields(type)));
      continue;
    }
    ReadField(value, Join(path, name), depth, message, field);
  }
}

}  // namespace

nlohmann::ordered_json ToJson(const Message& message) { return PrintMessage(message, 0); }

absl::Status FromJson(const nlohmann::ordered_json& json, Message* message) {
  message->Clear();
  Reader reader;
  reader.ReadMessage(json, "", 0, message);
  return reader.Finish();
}

std::string ShortEnumName(const EnumDescriptor* type, int number) {
  const EnumValueDescriptor* value = type->FindValueByNumber(number);
  if (value == nullptr) return fmt::format("{}", number);
  const std::string prefix = EnumPrefix(type);
  const std::string& name = value->name();
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

}  // namespace teq
