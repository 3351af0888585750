#include "client/objects/http.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PlaceOfTest, IsSchemeHostAndPortAndNothingSecret) {
  EXPECT_EQ(PlaceOf("https://host:8443/path?signature=s"), "https://host:8443");
  EXPECT_EQ(PlaceOf("https://user:p@ss@host/path"), "https://host");
  EXPECT_EQ(PlaceOf("http://host/a@b"), "http://host");
  EXPECT_EQ(PlaceOf("no URL"), "the server");
}

TEST(CurlTransportTest, PortThatNobodyListensOnIsNoConnection) {
  const auto transport = MakeCurlTransport({.use_proxy = false});
  // Port 1 of this machine.
  const absl::Status status =
      transport->Send({.url = "http://user:password@127.0.0.1:1/"}).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(ErrorReason(status), "HTTP_NO_CONNECTION");
  EXPECT_THAT(std::string(status.message()), HasSubstr("http://127.0.0.1:1"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("password")));
}

}  // namespace
}  // namespace teq::objects
