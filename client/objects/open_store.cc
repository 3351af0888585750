#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "client/objects/credentials.h"
#include "client/objects/endpoint.h"
#include "client/objects/environment.h"
#include "client/objects/http.h"
#include "client/objects/https_store.h"
#include "client/objects/local_store.h"
#include "client/objects/object_store.h"
#include "client/objects/s3_store.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using StoreOr = absl::StatusOr<std::shared_ptr<ObjectStore>>;

StoreOr OpenBucket(const Location& location, const Environment& environment) {
  TEQ_ASSIGN_OR_RETURN(Endpoint endpoint, EndpointOf(environment, location.authority));
  const std::string bundle = environment("AWS_CA_BUNDLE");
  const auto transport =
      MakeCurlTransport({.ca_file = bundle.empty() ? environment("SSL_CERT_FILE") : bundle});
  const auto credentials =
      MakeCredentialsChain({.environment = environment,
                            .transport = transport,
                            .local_transport = MakeCurlTransport(
                                {.ca_file = environment("SSL_CERT_FILE"), .use_proxy = false}),
                            .now = [] { return absl::Now(); }});
  TEQ_RETURN_IF_ERROR(credentials->Get().status());
  return OpenS3Store({.bucket = location.authority,
                      .prefix = location.key,
                      .endpoint = std::move(endpoint),
                      .credentials = credentials,
                      .transport = transport});
}

StoreOr OpenWebServer(const Location& location, const Environment& environment) {
  const std::string path = EncodePath(location.key);
  return OpenHttpsStore(
      {.base_url =
           fmt::format("https://{}/{}{}", location.authority, path, path.empty() ? "" : "/"),
       .uri = UriOf(location),
       .transport = MakeCurlTransport({.ca_file = environment("SSL_CERT_FILE")})});
}

}  // namespace

StoreOr OpenStore(std::string_view uri, const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(const Location location, ResolveLocation(uri, UriUse::kModel, policy));
  const Environment environment = ProcessEnvironment();
  switch (location.scheme) {
    case Location::Scheme::kFile:
      return OpenLocalStore(location.path);
    case Location::Scheme::kS3:
      return OpenBucket(location, environment);
    case Location::Scheme::kHttps:
      return OpenWebServer(location, environment);
    case Location::Scheme::kHub:
      break;
  }
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_URI",
               fmt::format("\"{}\" names a hub's repository, which is no object store; write "
                           "file://, s3:// or https://",
                           UriOf(location)));
}

}  // namespace teq::objects
