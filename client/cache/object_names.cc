#include "client/cache/object_names.h"

#include <algorithm>
#include <array>
#include <utility>

#include "proto/spec/error.h"

namespace teq::cache {
namespace {

constexpr std::array<std::string_view, 3> kPickles = {".bin", ".pt", ".pth"};
// What they are called where nobody can list them.
constexpr std::array<std::string_view, 2> kUsualPickles = {"pytorch_model.bin",
                                                           "pytorch_model.bin.index.json"};

bool IsPickle(std::string_view key) {
  return key.find('/') == std::string_view::npos &&
         std::ranges::any_of(kPickles, [&](std::string_view end) { return key.ends_with(end); });
}

}  // namespace

absl::StatusOr<ObjectNames> ObjectNames::Of(std::shared_ptr<const objects::ObjectStore> store) {
  const auto listed = store->List("");
  ObjectNames names(std::move(store));
  if (listed.ok()) {
    names.listed_.emplace();
    for (const objects::ObjectInfo& object : *listed) names.listed_->emplace(object.key, object);
  } else if (ErrorReason(listed.status()) != "NOT_LISTABLE") {
    return listed.status();
  }
  return names;
}

absl::StatusOr<std::optional<objects::ObjectInfo>> ObjectNames::Find(std::string_view name) const {
  const std::string key(name);
  if (listed_) {
    const auto found = listed_->find(key);
    return found == listed_->end() ? std::nullopt : std::optional(found->second);
  }
  auto object = store_->Head(key);
  if (object.ok()) return *std::move(object);
  if (!absl::IsNotFound(object.status())) return object.status();
  return std::nullopt;
}

absl::StatusOr<std::optional<objects::ObjectInfo>> ObjectNames::FindOptional(
    std::string_view name) const {
  auto object = Find(name);
  if (ErrorReason(object.status()) == "OBJECT_ACCESS_DENIED") return std::nullopt;
  return object;
}

absl::StatusOr<std::optional<std::string>> ObjectNames::FindPickle() const {
  if (listed_) {
    const auto found =
        std::ranges::find_if(*listed_, [](const auto& entry) { return IsPickle(entry.first); });
    return found == listed_->end() ? std::nullopt : std::optional(found->first);
  }
  for (const std::string_view name : kUsualPickles) {
    TEQ_ASSIGN_OR_RETURN(const auto object, FindOptional(name));
    if (object) return std::string(name);
  }
  return std::nullopt;
}

}  // namespace teq::cache
