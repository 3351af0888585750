#include "client/objects/stoppable.h"

#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

/// Runs as long as it may.
class Endless : public HttpTransport {
 public:
  absl::StatusOr<HttpAnswer> Send(const HttpRequest& request) override {
    ++sent;
    while (request.go_on()) ++asked;
    return absl::CancelledError("stopped");
  }
  int sent = 0;
  int asked = 0;
};

TEST(StoppableTest, RequestEndsWhenItIsToldToAndNoneBeginsAfterwards) {
  const auto endless = std::make_shared<Endless>();
  int left = 5;
  const auto transport = Stoppable(endless, [&] { return left-- > 0; });
  EXPECT_EQ(transport->Send({}).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(endless->asked, 4);  // the first of five was before the request
  EXPECT_EQ(ErrorReason(transport->Send({}).status()), "CANCELLED");
  EXPECT_EQ(endless->sent, 1);
}

TEST(StoppableTest, RequestsOwnWishToStopStillCounts) {
  const auto endless = std::make_shared<Endless>();
  const auto transport = Stoppable(endless, [] { return true; });
  HttpRequest request;
  request.go_on = [] { return false; };
  EXPECT_FALSE(transport->Send(request).ok());
  EXPECT_EQ(endless->asked, 0);
}

TEST(StoppableTest, PauseIsAsLongAsAskedForAndEndsEarlyWhenToldTo) {
  absl::Duration slept = absl::ZeroDuration();
  bool goes_on = true;
  RetryWorld world{.sleep = [&](absl::Duration pause) { slept += pause; }};
  world = Stoppable(std::move(world), [&] { return goes_on && slept < absl::Seconds(30); });
  world.sleep(absl::Milliseconds(1250));
  EXPECT_EQ(slept, absl::Milliseconds(1250));
  world.sleep(absl::Seconds(100));
  EXPECT_LT(slept, absl::Seconds(31));
  goes_on = false;
  const absl::Duration before = slept;
  world.sleep(absl::Seconds(1));
  EXPECT_EQ(slept, before);
}

}  // namespace
}  // namespace teq::objects
