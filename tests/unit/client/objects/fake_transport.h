#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "client/objects/http.h"

namespace teq::objects {

/// Answers requests by a function, and remembers them. For tests of one thread.
class FakeTransport : public HttpTransport {
 public:
  struct Seen {
    std::string method;
    std::string url;
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;

    [[nodiscard]] std::string Header(const std::string& name) const {
      for (const auto& [key, value] : headers) {
        if (key == name) return value;
      }
      return {};
    }
  };
  using Answer = std::function<absl::StatusOr<HttpAnswer>(const Seen& request)>;

  explicit FakeTransport(Answer answer) : answer_(std::move(answer)) {}

  absl::StatusOr<HttpAnswer> Send(const HttpRequest& request) override {
    seen.push_back({request.method, request.url, request.headers,
                    std::string(request.body.value_or(std::string_view()))});
    absl::StatusOr<HttpAnswer> answer = answer_(seen.back());
    if (!answer.ok() || !request.sink || (answer->status != 200 && answer->status != 206)) {
      return answer;
    }
    const std::string body = std::exchange(answer->body, "");
    if (!request.sink(*answer, body)) return absl::CancelledError("stopped");
    return answer;
  }

  std::vector<Seen> seen;

 private:
  Answer answer_;
};

}  // namespace teq::objects
