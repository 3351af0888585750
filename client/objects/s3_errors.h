#pragma once

#include <string>

#include "absl/time/time.h"
#include "client/objects/http.h"
#include "client/objects/retry.h"
#include "client/objects/s3_answers.h"

namespace teq::objects {

/// What a message about a failed request names.
struct S3Context {
  std::string uri;  // of the object, or of the prefix
  std::string bucket;
  std::string endpoint;  // "https://host:port"
  std::string region;
  absl::Time now;  // this machine's
};

/// What an answer of S3 that is none of success means: an error as object_store.h lists them, and
/// whether to try again. `answer.body` may be empty, as that of HEAD is. A 200 is judged by its
/// <Error>.
[[nodiscard]] Attempt S3Failure(const S3Context& context, const HttpAnswer& answer);

/// What a failed transport means.
[[nodiscard]] Attempt TransportFailure(const S3Context& context, const absl::Status& status);

/// Whether the store said that keys that were good are no longer.
[[nodiscard]] bool IsExpiredToken(const S3Error& error);

}  // namespace teq::objects
