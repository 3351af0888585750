#pragma once

#include <cstdint>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/model_info/model_config.h"
#include "nlohmann/json.hpp"

namespace teq::model_info {

/// The names that a key of config.json had over the years; the first that is there counts.
struct Key {
  Key(const char* name) : names{name} {}  // NOLINT(google-explicit-constructor)
  Key(std::initializer_list<const char*> all) : names(all) {}

  std::vector<const char*> names;
};

/// Reads an object of config.json. It remembers the first error, so that a caller reads many keys
/// and asks once, and which keys it was asked for: Finish refuses all others.
class ConfigReader {
 public:
  /// Borrows the object.
  ConfigReader(const nlohmann::ordered_json& json, std::string where)
      : json_(json), where_(std::move(where)) {}

  /// Whether the key is there, be it null; and with another value than null.
  [[nodiscard]] bool Contains(const Key& key);
  [[nodiscard]] bool Has(const Key& key);

  /// From 1 to 2^30, so that products of two stay inside 64 bits.
  [[nodiscard]] std::int64_t Size(const Key& key);
  [[nodiscard]] std::int64_t Size(const Key& key, std::int64_t fallback);
  /// From 1 to 2^14: of layers, heads or experts, each of which becomes an object.
  [[nodiscard]] std::int64_t Number(const Key& key);
  [[nodiscard]] std::int64_t Number(const Key& key, std::int64_t fallback);
  /// 0 is allowed too.
  [[nodiscard]] std::int64_t Count(const Key& key, std::int64_t fallback);
  [[nodiscard]] double Positive(const Key& key, double fallback);
  /// 0 and null both mean 0.
  [[nodiscard]] double Limit(const Key& key);
  [[nodiscard]] bool Flag(const Key& key, bool fallback);
  [[nodiscard]] std::string Text(const Key& key, const std::string& fallback);
  [[nodiscard]] Activation ReadActivation(const Key& key, const char* fallback);
  [[nodiscard]] std::vector<double> Numbers(const Key& key);  // positive
  [[nodiscard]] std::vector<std::int64_t> Counts(const Key& key);
  [[nodiscard]] std::vector<std::string> Texts(const Key& key);
  /// An object, or an empty one; its keys are its reader's affair.
  [[nodiscard]] const nlohmann::ordered_json& Object(const Key& key);

  /// Another value than this one is a variant that teqd does not run.
  void Require(const Key& key, const nlohmann::ordered_json& value);
  /// The keys change nothing that is computed.
  void Ignore(std::initializer_list<const char*> keys);

  void Invalid(const std::string& message);      // INVALID_MODEL_CONFIG
  void Unsupported(const std::string& message);  // UNSUPPORTED_MODEL
  void Adopt(const absl::Status& status);        // another reader's outcome

  /// The first error; UNSUPPORTED_MODEL for a key that nobody asked for, as it may change what the
  /// model computes. Keys that never do, such as dropout rates, are known to this class.
  [[nodiscard]] absl::Status Finish();
  [[nodiscard]] const absl::Status& status() const { return status_; }
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  /// The value under the first name that is there, or null; remembers the name for messages.
  const nlohmann::ordered_json& Find(const Key& key);
  /// The key's list where all its elements fit; else empty.
  const nlohmann::ordered_json& List(const Key& key,
                                     bool (*fits)(const nlohmann::ordered_json& element),
                                     const char* of_what);
  std::int64_t Integer(const Key& key, std::int64_t fallback, std::int64_t least,
                       std::int64_t most);

  const nlohmann::ordered_json& json_;
  std::string where_;
  std::string name_;  // of the key found last
  std::set<std::string, std::less<>> known_;
  absl::Status status_;
};

}  // namespace teq::model_info
