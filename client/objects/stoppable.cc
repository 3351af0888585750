#include "client/objects/stoppable.h"

#include <algorithm>
#include <utility>

#include "proto/spec/error.h"

namespace teq::objects {
namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(100);

class StoppableTransport final : public HttpTransport {
 public:
  StoppableTransport(std::shared_ptr<HttpTransport> transport, std::function<bool()> go_on)
      : transport_(std::move(transport)), go_on_(std::move(go_on)) {}

  absl::StatusOr<HttpAnswer> Send(const HttpRequest& request) override {
    if (!go_on_()) {
      return Error(absl::StatusCode::kCancelled, "CANCELLED", "the transfer was stopped");
    }
    HttpRequest stoppable = request;
    stoppable.go_on = [&] { return go_on_() && (!request.go_on || request.go_on()); };
    return transport_->Send(stoppable);
  }

 private:
  std::shared_ptr<HttpTransport> transport_;
  std::function<bool()> go_on_;
};

}  // namespace

std::shared_ptr<HttpTransport> Stoppable(std::shared_ptr<HttpTransport> transport,
                                         std::function<bool()> go_on) {
  return std::make_shared<StoppableTransport>(std::move(transport), std::move(go_on));
}

RetryWorld Stoppable(RetryWorld world, std::function<bool()> go_on) {
  world.sleep = [sleep = std::move(world.sleep), go_on = std::move(go_on)](absl::Duration pause) {
    for (; pause > absl::ZeroDuration() && go_on(); pause -= kSlice) sleep(std::min(pause, kSlice));
  };
  return world;
}

}  // namespace teq::objects
