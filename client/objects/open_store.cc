#include <functional>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "client/objects/credentials.h"
#include "client/objects/endpoint.h"
#include "client/objects/environment.h"
#include "client/objects/http.h"
#include "client/objects/https_store.h"
#include "client/objects/hub_store.h"
#include "client/objects/local_store.h"
#include "client/objects/object_store.h"
#include "client/objects/retry.h"
#include "client/objects/s3_store.h"
#include "client/objects/stoppable.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using StoreOr = absl::StatusOr<std::shared_ptr<ObjectStore>>;

/// What stores are made of here.
struct World {
  Environment environment;
  std::function<bool()> go_on;

  [[nodiscard]] std::shared_ptr<HttpTransport> Transport(CurlOptions options) const {
    return Stoppable(MakeCurlTransport(std::move(options)), go_on);
  }
  [[nodiscard]] RetryWorld Pauses() const { return Stoppable(RealRetryWorld(), go_on); }
};

StoreOr OpenBucket(const Location& location, const World& world) {
  TEQ_ASSIGN_OR_RETURN(Endpoint endpoint, EndpointOf(world.environment, location.authority));
  const auto transport = world.Transport({.ca_file = BucketCertificates(world.environment)});
  const auto credentials = MakeCredentialsChain(
      {.environment = world.environment,
       .transport = transport,
       .local_transport =
           world.Transport({.ca_file = world.environment("SSL_CERT_FILE"), .use_proxy = false}),
       .now = [] { return absl::Now(); }});
  TEQ_RETURN_IF_ERROR(credentials->Get().status());
  return OpenS3Store({.bucket = location.authority,
                      .prefix = location.key,
                      .endpoint = std::move(endpoint),
                      .credentials = credentials,
                      .transport = transport,
                      .world = world.Pauses()});
}

StoreOr OpenWebServer(const Location& location, const World& world) {
  const std::string path = EncodePath(location.key);
  return OpenHttpsStore(
      {.base_url =
           fmt::format("https://{}/{}{}", location.authority, path, path.empty() ? "" : "/"),
       .uri = UriOf(location),
       .transport = world.Transport({.ca_file = world.environment("SSL_CERT_FILE")}),
       .world = world.Pauses()});
}

StoreOr OpenHub(const Location& location, const World& world) {
  TEQ_ASSIGN_OR_RETURN(
      HubStoreOptions options,
      HubOptionsOf(location, world.environment,
                   world.Transport({.ca_file = world.environment("SSL_CERT_FILE")})));
  options.world = world.Pauses();
  return OpenHubStore(std::move(options));
}

}  // namespace

StoreOr OpenStore(std::string_view uri, const UriPolicy& policy, std::function<bool()> go_on) {
  TEQ_ASSIGN_OR_RETURN(const Location location, ResolveLocation(uri, UriUse::kModel, policy));
  const World world = {.environment = ProcessEnvironment(), .go_on = std::move(go_on)};
  switch (location.scheme) {
    case Location::Scheme::kFile:
      return OpenLocalStore(location.path);
    case Location::Scheme::kS3:
      return OpenBucket(location, world);
    case Location::Scheme::kHttps:
      return OpenWebServer(location, world);
    case Location::Scheme::kHub:
      return OpenHub(location, world);
  }
  return Error(absl::StatusCode::kInternal, "INVALID_URI", UriOf(location));
}

StoreOr OpenStore(std::string_view uri, const UriPolicy& policy) {
  return OpenStore(uri, policy, [] { return true; });
}

}  // namespace teq::objects
