#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/objects/object_store.h"

namespace teq::objects {

/// What a hub says of one revision of a model.
struct HubRevision {
  std::string commit;  // 40 hexadecimal digits
  std::map<std::string, ObjectInfo> files;
};

/// The answer of /api/models/{owner}/{name}/revision/{revision}?blobs=true. Files whose names are
/// no keys are left out. INTERNAL, BAD_ANSWER, says what is wrong with it.
[[nodiscard]] absl::StatusOr<HubRevision> ParseHubRevision(std::string_view json);

/// Where a redirect from `url` leads: the value of Location, absolute or a path of the same host.
/// INTERNAL, BAD_ANSWER: neither, or from https:// to http://.
[[nodiscard]] absl::StatusOr<std::string> RedirectTarget(std::string_view url,
                                                         std::string_view location);

}  // namespace teq::objects
