#include "client/objects/local_store.h"
#include "client/objects/object_store.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {

absl::StatusOr<std::shared_ptr<ObjectStore>> OpenStore(std::string_view uri,
                                                       const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(const Location location, ResolveLocation(uri, UriUse::kModel, policy));
  if (location.scheme == Location::Scheme::kFile) return OpenLocalStore(location.path);
  return Error(
      absl::StatusCode::kInvalidArgument, "INVALID_URI",
      fmt::format("\"{}\" names no store that can be opened; write file://", UriOf(location)));
}

}  // namespace teq::objects
