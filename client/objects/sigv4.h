#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace teq::objects {

/// Names and values in any order; several may have one name.
using Pairs = std::vector<std::pair<std::string, std::string>>;

/// What a request is signed with. Never shown in messages.
struct Credentials {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;  // empty for lasting keys
  absl::Time expiry = absl::InfiniteFuture();
};

/// Where a signature holds, such as {"eu-central-1", "s3"}.
struct SigningScope {
  std::string region;
  std::string service;
};

/// What is signed of a request.
struct SignedParts {
  std::string method;          // upper case
  std::string path;            // encoded as it is sent, from the first slash
  Pairs query;                 // not encoded
  Pairs headers;               // those that are signed, "host" among them; names in any case
  std::string payload_sha256;  // hexadecimal, or UNSIGNED-PAYLOAD
};

/// The payload of a request whose body is not covered by its signature.
inline constexpr std::string_view kUnsignedPayload = "UNSIGNED-PAYLOAD";

/// RFC 3986: all but A-Z, a-z, 0-9, '-', '.', '_' and '~' as upper-case escapes. A path keeps its
/// slashes.
[[nodiscard]] std::string EncodeQuery(std::string_view text);
[[nodiscard]] std::string EncodePath(std::string_view text);

/// The query as it is signed, and as it must be sent: encoded and sorted, without the '?'.
[[nodiscard]] std::string CanonicalQuery(const Pairs& query);

/// AWS Signature Version 4, task 1: the canonical request. The path is S3's: taken as it is.
[[nodiscard]] std::string CanonicalRequest(const SignedParts& parts);

/// The value of the header Authorization. `parts.headers` has "x-amz-date" with DateHeader(now).
[[nodiscard]] std::string Authorization(const SignedParts& parts, const Credentials& credentials,
                                        const SigningScope& scope, absl::Time now);

/// The query of a URL that gives whoever has it this request until `now` + `ttl`. Signs the host
/// alone: `parts.headers` is "host", and the session token becomes part of the query.
[[nodiscard]] std::string PresignedQuery(SignedParts parts, const Credentials& credentials,
                                         const SigningScope& scope, absl::Time now,
                                         absl::Duration ttl);

/// A time as the header x-amz-date has it: 20130524T000000Z.
[[nodiscard]] std::string DateHeader(absl::Time time);

}  // namespace teq::objects
