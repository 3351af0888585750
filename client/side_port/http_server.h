#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace teq::http {

/// What the pages say. Called in the HTTP thread.
struct HttpPages {
  std::function<absl::StatusOr<std::string>()> metrics;  // the Prometheus text format
  std::function<absl::Status()> ready;                   // OK: calls can be served
};

struct HttpOptions {
  std::string address = "127.0.0.1:8471";  // host:port; port 0: any free one
  int max_connections = 64;                // more wait in the listener's backlog
  int timeout_seconds = 10;                // for a request, and for the next one
};

/// The HTTP side port: GET and HEAD of /metrics, /healthz (the process lives) and /readyz. Serves
/// in a thread of its own until it is destroyed.
class HttpServer {
 public:
  /// UNAVAILABLE, reason ADDRESS_UNAVAILABLE, names the address; INVALID_ARGUMENT, reason
  /// INVALID_ADDRESS.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpOptions& options,
                                                                         HttpPages pages);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// The address with the port that was chosen.
  [[nodiscard]] const std::string& address() const;

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace teq::http
