#pragma once

#include <memory>
#include <string>

#include "client/objects/credentials.h"
#include "client/objects/endpoint.h"
#include "client/objects/http.h"
#include "client/objects/object_store.h"
#include "client/objects/retry.h"

namespace teq::objects {

/// A prefix of a bucket of S3 or of a store that speaks as S3 does. Each request's body is signed
/// by its sha256. Files above 16 MiB travel in parts, a few at once, in memory for these.
struct S3StoreOptions {
  std::string bucket;
  std::string prefix;  // without slashes at its ends; may be empty
  Endpoint endpoint;
  std::shared_ptr<CredentialsProvider> credentials;
  std::shared_ptr<HttpTransport> transport;
  RetryPolicy retry;
  RetryWorld world = RealRetryWorld();
};
[[nodiscard]] std::shared_ptr<ObjectStore> OpenS3Store(S3StoreOptions options);

}  // namespace teq::objects
