#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/http.h"
#include "client/objects/retry.h"
#include "client/objects/s3_store.h"

namespace teq::objects {

/// One operation of S3 on a key, or on the bucket.
struct S3Call {
  std::string method = "GET";
  std::string key;  // in the bucket; empty for the bucket itself
  std::string uri;  // what messages call it
  Pairs query;
  Pairs headers;
  std::optional<std::string_view> body;
  std::string body_sha256;  // hexadecimal, where it is known
  BodySink sink;
  std::function<bool()> go_on;
  bool once = false;  // sent once a try: what a second time would not do again
};

/// Signs and sends operations, and says what their answers mean. Thread-safe.
class S3Client {
 public:
  explicit S3Client(S3StoreOptions options) : options_(std::move(options)) {}

  /// One try. `answer` has what the store answered; the attempt is OK for 200 to 299, unless a 200
  /// holds an <Error>.
  [[nodiscard]] Attempt Try(const S3Call& call, HttpAnswer& answer) const;

  /// As many tries as the policy has; the answer of the one that succeeded.
  [[nodiscard]] absl::StatusOr<HttpAnswer> Perform(const S3Call& call) const;

  /// Runs any tries under the policy. Ends where `go_on` does.
  [[nodiscard]] absl::Status Run(const std::function<Attempt(int attempt)>& attempt,
                                 const std::function<bool()>& go_on = {}) const;

  /// A URL that answers GET of `key` without keys.
  [[nodiscard]] absl::StatusOr<SignedUrl> Presign(const std::string& key, absl::Duration ttl) const;

  [[nodiscard]] const S3StoreOptions& options() const { return options_; }

 private:
  S3StoreOptions options_;
};

}  // namespace teq::objects
