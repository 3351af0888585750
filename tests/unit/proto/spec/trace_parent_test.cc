#include "proto/spec/trace_parent.h"

#include <cstdint>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq {
namespace {

// The examples of W3C Trace Context, section 3.2.4.
constexpr const char* kSampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
constexpr const char* kNotSampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

TEST(TraceParentTest, ExamplesOfTheSpecificationAreRead) {
  const auto sampled = ParseTraceParent(kSampled);
  ASSERT_TRUE(sampled);
  EXPECT_EQ(sampled->trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(sampled->parent_id, "00f067aa0ba902b7");
  EXPECT_TRUE(sampled->sampled);
  EXPECT_EQ(sampled->ToString(), kSampled);
  const auto other = ParseTraceParent(kNotSampled);
  ASSERT_TRUE(other);
  EXPECT_FALSE(other->sampled);
  EXPECT_EQ(other->ToString(), kNotSampled);
}

TEST(TraceParentTest, SpaceAroundIsAllowed) {
  const auto trace = ParseTraceParent(std::string(" \t") + kSampled + "\t ");
  ASSERT_TRUE(trace);
  EXPECT_EQ(trace->ToString(), kSampled);
}

// Section 3.2.2.5: the other bits of the flags mean nothing to version 00, and are sent as zeros.
TEST(TraceParentTest, UnknownFlagsAreNotPassedOn) {
  const auto trace = ParseTraceParent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff");
  ASSERT_TRUE(trace);
  EXPECT_EQ(trace->ToString(), kSampled);
}

// Section 3.2.4: what version 00 knows is read of later ones, and passed on as version 00.
TEST(TraceParentTest, LaterVersionsAreReadAsFarAsVersion00Goes) {
  for (const char* rest : {"", "-", "-what-the-future-brings"}) {
    const auto trace = ParseTraceParent(
        std::string("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01") + rest);
    ASSERT_TRUE(trace) << rest;
    EXPECT_EQ(trace->ToString(), kSampled);
  }
  EXPECT_FALSE(
      ParseTraceParent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future"));
}

TEST(TraceParentTest, MalformedOnesAreIgnored) {
  for (const char* text : {
           "", " ", "-", "00",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",   // no trace id
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",   // no parent id
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",   // capitals
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",   // no digit
           "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",    // short
           "00-4bf92f3577b34da6a3ce929d0e0e47366-00f067aa0ba902b7-01",  // long
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",    // short flags
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-.1",   // no digit
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",  // more than version 00 has
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-01",  // the same
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",     // another separator
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",     // no such version
           "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",     // no version
       }) {
    EXPECT_FALSE(ParseTraceParent(text)) << text;
  }
}

TEST(TraceParentTest, NewOneIsValidAndMadeOfTheRandomBits) {
  std::uint64_t bits = 0x0123456789abcdef;
  const TraceParent trace = NewTraceParent([&bits] { return bits++; });
  EXPECT_EQ(trace.ToString(), "00-0123456789abcdef0123456789abcdf0-0123456789abcdf1-00");
  EXPECT_TRUE(ParseTraceParent(trace.ToString()));
  EXPECT_TRUE(ParseTraceParent(NewTraceParent([] { return 0; }).ToString()));
}

}  // namespace
}  // namespace teq
