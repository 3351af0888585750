#include "client/objects/endpoint.h"

#include <algorithm>
#include <array>

#include "client/objects/credentials.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

struct Origin {
  std::string scheme;  // with "://"
  std::string authority;
  std::string host;  // of the authority, without its port
};

absl::Status Invalid(std::string_view variable, std::string_view value, std::string_view problem) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_ENDPOINT",
               fmt::format("{}: \"{}\" {}", variable, value.substr(0, 200), problem));
}

std::string HostOf(std::string_view authority) {
  if (authority.starts_with('[')) {
    return std::string(
        authority.substr(0, std::min(authority.find(']'), authority.size() - 1) + 1));
  }
  return std::string(authority.substr(0, authority.find(':')));
}

absl::StatusOr<Origin> ParseOrigin(std::string_view variable, std::string_view url) {
  constexpr std::string_view kForm = "is not http(s)://host[:port]";
  const std::size_t end = url.find("://");
  if (end == std::string_view::npos) return Invalid(variable, url, kForm);
  Origin origin{.scheme = std::string(url.substr(0, end + 3))};
  std::string_view rest = url.substr(end + 3);
  if (rest.ends_with('/')) rest.remove_suffix(1);
  // A user and a password would be shown by the message.
  if (rest.find('@') != std::string_view::npos) return Invalid(variable, "...@...", kForm);
  if ((origin.scheme != "https://" && origin.scheme != "http://") || HostOf(rest).empty() ||
      rest.find_first_of("/?# ") != std::string_view::npos) {
    return Invalid(variable, url, kForm);
  }
  origin.host = HostOf(rest);
  // curl leaves the port that a scheme has anyway out of the header Host, which is signed.
  const std::string_view port = rest.substr(origin.host.size());
  const bool is_usual = port == ":" || port == (origin.scheme == "https://" ? ":443" : ":80");
  origin.authority = is_usual ? origin.host : rest;
  return origin;
}

bool IsLoopback(std::string_view host) {
  if (host == "localhost" || host == "[::1]") return true;
  return host.starts_with("127.") &&
         host.find_first_not_of("0123456789.") == std::string_view::npos;
}

bool WantsPath(bool is_aws, const std::string& addressing, std::string_view bucket, bool is_tls) {
  if (is_tls && bucket.find('.') != std::string_view::npos) return true;
  return addressing.empty() ? !is_aws : addressing == "path";
}

}  // namespace

absl::StatusOr<Endpoint> EndpointOf(const Environment& environment, const std::string& bucket) {
  const std::string addressing = environment("TEQ_S3_ADDRESSING");
  if (!addressing.empty() && addressing != "path" && addressing != "virtual") {
    return Invalid("TEQ_S3_ADDRESSING", addressing, "is neither path nor virtual");
  }
  Endpoint endpoint{.region = RegionOf(environment)};
  Origin origin{.scheme = "https://", .authority = "s3." + AwsHost(endpoint.region)};
  bool is_aws = true;
  for (const char* variable : {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}) {
    const std::string url = environment(variable);
    if (url.empty()) continue;
    TEQ_ASSIGN_OR_RETURN(origin, ParseOrigin(variable, url));
    if (origin.scheme == "http://" && !IsLoopback(origin.host) &&
        environment("TEQ_S3_ALLOW_HTTP") != "1") {
      return Invalid(variable, url,
                     "is not encrypted; use https://, or set TEQ_S3_ALLOW_HTTP=1 where the network "
                     "is trusted");
    }
    is_aws = false;
    break;
  }
  if (WantsPath(is_aws, addressing, bucket, origin.scheme == "https://")) {
    endpoint.host = origin.authority;
    endpoint.base_path = "/" + bucket + "/";
  } else {
    endpoint.host = bucket + "." + origin.authority;
    endpoint.base_path = "/";
  }
  endpoint.origin = origin.scheme + endpoint.host;
  return endpoint;
}

std::string BucketCertificates(const Environment& environment) {
  std::string bundle = environment("AWS_CA_BUNDLE");
  return bundle.empty() ? environment("SSL_CERT_FILE") : bundle;
}

std::string AwsHost(std::string_view region) {
  return fmt::format("{}.amazonaws.com{}", region, region.starts_with("cn-") ? ".cn" : "");
}

bool IsTrustedForKeys(std::string_view url) {
  constexpr std::array<std::string_view, 3> kContainers = {"169.254.170.2", "169.254.170.23",
                                                           "[fd00:ec2::23]"};
  if (url.starts_with("https://")) return true;
  if (!url.starts_with("http://")) return false;
  url.remove_prefix(7);
  const std::string_view authority = url.substr(0, url.find_first_of("/?#"));
  if (authority.find('@') != std::string_view::npos) return false;
  const std::string host = HostOf(authority);
  return IsLoopback(host) || std::ranges::find(kContainers, host) != kContainers.end();
}

}  // namespace teq::objects
