#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/objects/object_store.h"

namespace teq::cache {

/// The objects of a store by name: from its list, or, where it has none (a web server), by asking
/// for each. Errors as ObjectStore's.
class ObjectNames {
 public:
  [[nodiscard]] static absl::StatusOr<ObjectNames> Of(
      std::shared_ptr<const objects::ObjectStore> store);

  /// Nothing where there is no such object.
  [[nodiscard]] absl::StatusOr<std::optional<objects::ObjectInfo>> Find(
      std::string_view name) const;

  /// The same of what a model may lack: a web server that shows nobody its list, such as a public
  /// bucket, answers 403 for what is not there.
  [[nodiscard]] absl::StatusOr<std::optional<objects::ObjectInfo>> FindOptional(
      std::string_view name) const;

  /// One that holds pickled weights; nothing where there is none, or none under a usual name where
  /// the store has no list.
  [[nodiscard]] absl::StatusOr<std::optional<std::string>> FindPickle() const;

  [[nodiscard]] const std::shared_ptr<const objects::ObjectStore>& store() const { return store_; }

 private:
  explicit ObjectNames(std::shared_ptr<const objects::ObjectStore> store)
      : store_(std::move(store)) {}

  std::shared_ptr<const objects::ObjectStore> store_;
  std::optional<std::map<std::string, objects::ObjectInfo>> listed_;
};

}  // namespace teq::cache
