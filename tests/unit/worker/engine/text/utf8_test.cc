#include "worker/engine/text/utf8.h"

#include <string_view>

#include "gtest/gtest.h"

namespace teq::text {
namespace {

#define FFFD "\xef\xbf\xbd"

// Expected values: bytes.decode("utf-8", errors="replace") of CPython 3.11, and the examples of the
// Unicode standard, section 3.9.
TEST(Utf8Test, ValidTextIsKept) {
  const std::string_view text = "a\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\xed\x9f\xbf";
  EXPECT_EQ(RepairUtf8(text), text);
  EXPECT_EQ(RepairUtf8(""), "");
  EXPECT_EQ(RepairUtf8(std::string_view("\0a", 2)), std::string_view("\0a", 2));
}

TEST(Utf8Test, EveryMaximalInvalidPartBecomesOneReplacement) {
  EXPECT_EQ(RepairUtf8("a\xff"
                       "b"),
            "a" FFFD "b");
  EXPECT_EQ(RepairUtf8("\x80\xbf"), FFFD FFFD);
  EXPECT_EQ(RepairUtf8("\xc0\xaf"), FFFD FFFD);
  EXPECT_EQ(RepairUtf8("\xe0\x9f\x80"), FFFD FFFD FFFD);
  EXPECT_EQ(RepairUtf8("\xf4\x90\x80\x80"), FFFD FFFD FFFD FFFD);
  EXPECT_EQ(RepairUtf8("\xf5\x80"), FFFD FFFD);
  EXPECT_EQ(RepairUtf8("a\xf1\x80\x80\xe1\x80\xc2"
                       "b\x80"
                       "c\x80\xbf"
                       "d"),
            "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d");
}

TEST(Utf8Test, SurrogatesAreNotText) { EXPECT_EQ(RepairUtf8("\xed\xa0\x80"), FFFD FFFD FFFD); }

TEST(Utf8Test, CharacterCutShortIsReplacedOnce) {
  EXPECT_EQ(RepairUtf8("a\xe6\x97"), "a" FFFD);
  EXPECT_EQ(RepairUtf8("\xf0\x9f\x98"), FFFD);
  EXPECT_EQ(RepairUtf8("\xc3"), FFFD);
}

TEST(Utf8Test, CharactersAreMeasuredFromBothEnds) {
  EXPECT_EQ(FirstCharacterSize("\xe6\x97\xa5z"), 3);
  EXPECT_EQ(LastCharacterSize("z\xf0\x9f\x98\x80"), 4);
  EXPECT_EQ(FirstCharacterSize(""), 0);
  EXPECT_EQ(LastCharacterSize(""), 0);
}

}  // namespace
}  // namespace teq::text
