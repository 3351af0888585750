#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/objects/environment.h"

namespace teq::objects {

/// Where one bucket is reached.
struct Endpoint {
  std::string origin;     // "https://bucket.s3.eu-west-1.amazonaws.com", "http://127.0.0.1:7480"
  std::string host;       // as the header Host has it
  std::string base_path;  // "/" or "/bucket/"
  std::string region;
};

/// The endpoint that environment.h's variables give a bucket. A bucket whose name has dots stands
/// in the path, as no certificate covers it otherwise. INVALID_ARGUMENT, INVALID_ENDPOINT: not
/// http(s)://host[:port]; http:// to another machine without TEQ_S3_ALLOW_HTTP=1; an addressing
/// that is neither path nor virtual.
[[nodiscard]] absl::StatusOr<Endpoint> EndpointOf(const Environment& environment,
                                                  const std::string& bucket);

/// The file of certificates that endpoints of buckets are trusted by; empty: the system's.
[[nodiscard]] std::string BucketCertificates(const Environment& environment);

/// "eu-west-1.amazonaws.com": what the hosts of a region's services end with.
[[nodiscard]] std::string AwsHost(std::string_view region);

/// Whether keys may be read from a URL: https://, or http:// on this machine or at the link-local
/// addresses of containers' endpoints.
[[nodiscard]] bool IsTrustedForKeys(std::string_view url);

}  // namespace teq::objects
