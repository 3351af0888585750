#include "client/objects/publication.h"

#include <utility>

#include "client/objects/directory_publication.h"
#include "client/objects/store_publication.h"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"

namespace teq::objects {

absl::StatusOr<Publication> Publication::Begin(const std::string& output_uri,
                                               const UriPolicy& policy, const Publisher& publisher,
                                               const std::vector<std::string>& format_directories,
                                               const std::filesystem::path& data) {
  TEQ_ASSIGN_OR_RETURN(Location location, ResolveLocation(output_uri, UriUse::kOutput, policy));
  if (location.scheme == Location::Scheme::kFile) {
    return BeginInDirectory(std::move(location.path), publisher, format_directories);
  }
  TEQ_ASSIGN_OR_RETURN(std::shared_ptr<ObjectStore> store, OpenStore(output_uri, policy));
  return BeginInStore(std::move(store), data, publisher, format_directories);
}

absl::StatusOr<Publication> Publication::Find(const std::string& output_uri,
                                              const UriPolicy& policy, const Publisher& publisher,
                                              const std::filesystem::path& data,
                                              std::function<bool()> go_on) {
  TEQ_ASSIGN_OR_RETURN(Location location, ResolveLocation(output_uri, UriUse::kOutput, policy));
  if (location.scheme == Location::Scheme::kFile) {
    return FindInDirectory(std::move(location.path), publisher);
  }
  TEQ_ASSIGN_OR_RETURN(std::shared_ptr<ObjectStore> store,
                       OpenStore(output_uri, policy, std::move(go_on)));
  return FindInStore(std::move(store), data, publisher);
}

}  // namespace teq::objects
