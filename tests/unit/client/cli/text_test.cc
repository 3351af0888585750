#include "client/cli/text.h"

#include "gtest/gtest.h"

namespace teq::cli {
namespace {

TEST(TextTest, ControlCharactersOfOthersDoNotReachTheTerminal) {
  EXPECT_EQ(Printable("a\x1b[2Jb\nc\x7f"), "a?[2Jb?c?");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31mä"),
            "?31mä");  // U+009B starts a sequence too
}

TEST(TextTest, CharactersAreCountedAndCutWhole) {
  EXPECT_EQ(Columns("Größe ±"), 7U);
  EXPECT_EQ(Cut("Größe", 3), "Grö");
  EXPECT_EQ(Cut("abc", 5), "abc");
  EXPECT_EQ(Cut("abc", 0), "");
}

TEST(TextTest, DurationsShowTheirTwoLargestUnits) {
  EXPECT_EQ(DurationText(0.4), "0s");
  EXPECT_EQ(DurationText(59), "59s");
  EXPECT_EQ(DurationText(192), "3m12s");
  EXPECT_EQ(DurationText(7500), "2h05m");
  EXPECT_EQ(DurationText(3 * 86400 + 4 * 3600), "3d04h");
  EXPECT_EQ(DurationText(-1), "0s");
}

TEST(TextTest, BytesHaveBinaryUnits) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1536), "1.5 KiB");
  EXPECT_EQ(BytesText(3LL << 30), "3.0 GiB");
  EXPECT_EQ(BytesText(5LL << 50), "5120.0 TiB");
}

TEST(TextTest, TimeIsInUtc) {
  google::protobuf::Timestamp time;
  EXPECT_EQ(TimeText(time), "-");
  time.set_seconds(1700000000);  // date -u -d @1700000000
  EXPECT_EQ(TimeText(time), "2023-11-14 22:13:20Z");
}

TEST(TextTest, PerplexityThatWasNotMeasuredIsADash) {
  EXPECT_EQ(PerplexityText(0), "-");
  EXPECT_EQ(PerplexityText(12.3456), "12.346");
  EXPECT_EQ(PerplexityText(123456), "1.235e+05");
}

TEST(TextTest, RatesAreShort) {
  EXPECT_EQ(RateText(950.4), "950");
  EXPECT_EQ(RateText(1234), "1.2k");
  EXPECT_EQ(RateText(3.4e6), "3.4M");
}

TEST(TextTest, FileUriReadsAsItsPath) {
  EXPECT_EQ(PlaceText("file:///my%20data/a.txt"), "/my data/a.txt");
  EXPECT_EQ(PlaceText("s3://bucket/x"), "s3://bucket/x");
}

TEST(TextTest, TableAlignsColumnsByCharacters) {
  EXPECT_EQ(Table({{"NAME", "N"}, {"ä", "10"}, {"long-name", "5"}}, {1}),
            "NAME        N\n"
            "ä          10\n"
            "long-name   5\n");
  EXPECT_EQ(Table({{"a", ""}, {"b", "c"}}, {}), "a\nb  c\n");
}

}  // namespace
}  // namespace teq::cli
