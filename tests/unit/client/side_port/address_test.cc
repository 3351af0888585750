#include "client/side_port/address.h"

#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::http {
namespace {

TEST(AddressTest, ReadsNamesAndNumbers) {
  EXPECT_EQ(ParseHostPort("localhost:8470")->host, "localhost");
  EXPECT_EQ(ParseHostPort("127.0.0.1:0")->port, 0);
  EXPECT_EQ(ParseHostPort("[::1]:8470")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:8470")->ToString(), "[::1]:8470");
  EXPECT_EQ(ParseHostPort("127.0.0.1:65535")->ToString(), "127.0.0.1:65535");
}

TEST(AddressTest, OtherFormsAreRefused) {
  for (const char* text : {"", "8470", ":8470", "localhost:", "localhost:x", "127.0.0.1:65536",
                           "::1:8470", "[]:1", "127.0.0.1:80 "}) {
    EXPECT_EQ(ErrorReason(ParseHostPort(text).status()), "INVALID_ADDRESS") << text;
  }
}

TEST(AddressTest, OnlyLoopbackIsLoopback) {
  for (const char* text : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"}) {
    EXPECT_TRUE(ParseHostPort(text)->IsLoopback()) << text;
  }
  for (const char* text :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "127.0.0.1.example.org:1"}) {
    EXPECT_FALSE(ParseHostPort(text)->IsLoopback()) << text;
  }
}

}  // namespace
}  // namespace teq::http
