#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/objects/environment.h"
#include "client/objects/http.h"
#include "client/objects/object_store.h"
#include "client/objects/retry.h"
#include "proto/spec/uri.h"

namespace teq::objects {

/// One model of a hub that answers as Hugging Face's.
struct HubStoreOptions {
  std::string endpoint;     // "https://host", without a slash at its end
  std::string repository;   // "owner/name"
  std::string revision;     // a branch, a tag or a commit
  std::string token;        // empty: none is sent
  std::string token_place;  // for messages: where the token is from, or would be looked for
  std::shared_ptr<HttpTransport> transport;
  RetryPolicy retry{.longest_asked = absl::Seconds(330)};  // the hub counts by 5 minutes
  RetryWorld world = RealRetryWorld();
};

/// What the environment says: HF_ENDPOINT; HF_TOKEN, else the file HF_TOKEN_PATH, else
/// ~/.cache/huggingface/token. INVALID_ARGUMENT, INVALID_ENDPOINT: not http(s)://host, or a token
/// would go over http:// to another machine. FAILED_PRECONDITION, NO_CREDENTIALS: HF_TOKEN_PATH
/// cannot be read, or a token with white space or control characters inside.
[[nodiscard]] absl::StatusOr<HubStoreOptions> HubOptionsOf(
    const Location& location, const Environment& environment,
    std::shared_ptr<HttpTransport> transport);

/// A model's files to read. The revision is asked for once, here, and all files come from the
/// commit that it was then, which URIs name: hf://owner/name@commit/config.json. The token goes to
/// the endpoint alone, never to where it redirects to. An etag is the file's sha256 where the hub
/// keeps it as a large file, else git's id of it.
///
/// Beside ObjectStore's errors: NOT_FOUND, MODEL_NOT_FOUND and REVISION_NOT_FOUND;
/// PERMISSION_DENIED, MODEL_GATED (its licence has to be accepted) and HUB_TOKEN_REFUSED.
[[nodiscard]] absl::StatusOr<std::shared_ptr<ObjectStore>> OpenHubStore(HubStoreOptions options);

}  // namespace teq::objects
