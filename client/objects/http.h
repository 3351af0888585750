#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace teq::objects {

struct HttpAnswer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; the last of one name
  std::string body;

  /// The value of a header; empty where there is none.
  [[nodiscard]] std::string Header(const std::string& lower_case_name) const;

  /// Whether this is the range of a file that begins at byte `first`.
  [[nodiscard]] bool IsRangeFrom(std::uint64_t first) const;
};

/// Takes a piece of a body; `answer` has status and headers. False ends the request with CANCELLED.
using BodySink = std::function<bool(const HttpAnswer& answer, std::string_view bytes)>;

/// One request. Views have to live until it is answered.
struct HttpRequest {
  std::string method = "GET";
  std::string url;  // encoded; http:// or https://
  std::vector<std::pair<std::string, std::string>> headers;
  std::optional<std::string_view> body;  // sent with its length, never in chunks

  /// Takes the body of an answer whose status is 200 or 206. Bodies of other answers, and of all
  /// where this is empty, go to HttpAnswer::body.
  BodySink sink;

  /// Asked now and then while the request runs; false ends it with CANCELLED.
  std::function<bool()> go_on;

  std::size_t max_body_bytes = std::size_t{1} << 20;  // of HttpAnswer::body
  int max_redirects = 0;                              // 0: a redirect is an answer like others

  /// On a connection of its own. On a kept one that turns out to be dead libcurl sends a request
  /// again, unseen; one that must be known to have been sent once takes this.
  bool fresh_connection = false;

  absl::Duration connect_timeout = absl::Seconds(10);
  absl::Duration total_timeout = absl::InfiniteDuration();
};

/// Sends requests; any status is an answer. Thread-safe. Errors:
///
/// UNAVAILABLE, HTTP_NO_CONNECTION: nothing could be sent; UNAVAILABLE, HTTP_FAILED: a connection
/// that broke, a body that ended early, a timeout, no byte for 60 s; a second try may succeed.
/// FAILED_PRECONDITION, TLS_FAILED: the server's
/// certificate is not trusted. RESOURCE_EXHAUSTED, HTTP_ANSWER_TOO_LARGE: headers above 64 KiB, or
/// a body above its limit. CANCELLED. INVALID_ARGUMENT, HTTP_BAD_URL.
///
/// Messages name the host and nothing else of a URL.
class HttpTransport {
 public:
  virtual ~HttpTransport() = default;
  [[nodiscard]] virtual absl::StatusOr<HttpAnswer> Send(const HttpRequest& request) = 0;
};

/// A header's value, or a token that a file holds, without the white space around it.
[[nodiscard]] std::string Trimmed(std::string_view text);

/// "https://host:port" of a URL.
[[nodiscard]] std::string_view OriginOf(std::string_view url);

/// The same as a message may show it. Without a user and a password.
[[nodiscard]] std::string PlaceOf(std::string_view url);

/// HttpTransport by libcurl: HTTP/1.1, connections kept for the next request. Authorization is
/// never sent to another host than the URL's.
struct CurlOptions {
  std::string ca_file;    // certificates to trust instead of the system's
  bool use_proxy = true;  // what https_proxy, http_proxy and no_proxy say
  absl::Duration stall_timeout = absl::Seconds(60);  // without a byte
};
[[nodiscard]] std::shared_ptr<HttpTransport> MakeCurlTransport(CurlOptions options);

}  // namespace teq::objects
