#include "worker/engine/text/charsmap.h"

#include <optional>
#include <string>
#include <string_view>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::text {
namespace {

using ::testing::HasSubstr;

// The rule a -> b: a root, a node with a leaf, a value, in Darts-clone's layout, made by hand.
constexpr std::string_view kRule = "DAAAAACAAQBhDQAAAAAAgGIA";

Charsmap Rule() { return *Charsmap::Create(*DecodeBase64(kRule)); }

// Expected texts: what Hugging Face's tokenizers 0.23.2 make of the same table, of 256 units: short
// of that it reads beyond the end.
TEST(CharsmapTest, ShortClusterBecomesTheReplacementOfItsPrefix) {
  EXPECT_EQ(Rule().Normalize("a"), "b");
  EXPECT_EQ(Rule().Normalize("xax"), "xbx");
  EXPECT_EQ(Rule().Normalize("a\u0301x"), "bx");  // the accent goes too
  EXPECT_EQ(Rule().Normalize("a\u0301\u0302x"), "bx");
  EXPECT_EQ(Rule().Normalize("\u00e9\u0301a"), "\u00e9\u0301b");
  EXPECT_EQ(Rule().Normalize(""), "");
}

TEST(CharsmapTest, CharactersOfALongClusterGoByThemselves) {
  EXPECT_EQ(Rule().Normalize("a\u0301\u0302\u0303"), "b\u0301\u0302\u0303");
}

TEST(CharsmapTest, BytesThatAreNoTableAreRefused) {
  using std::string_literals::operator""s;
  for (const std::string& bytes :
       {""s, "abc"s, "\x08\0\0\0abc"s, "\0\0\0\0"s, "\x03\0\0\0abc"s, "\x04\0\0\0abcd\xff"s}) {
    const auto charsmap = Charsmap::Create(bytes);
    ASSERT_FALSE(charsmap.ok());
    EXPECT_THAT(std::string(charsmap.status().message()), HasSubstr("no table of SentencePiece's"));
  }
}

TEST(CharsmapTest, OffsetsThatLeaveTheTableFindNothing) {
  using std::string_literals::operator""s;
  const auto charsmap = Charsmap::Create("\x04\0\0\0\xff\xff\xff\xff"s);
  ASSERT_TRUE(charsmap.ok()) << charsmap.status();
  EXPECT_EQ(charsmap->Normalize("abc"), "abc");
}

// The test vectors of RFC 4648, section 10.
TEST(Base64Test, DecodesAsTheRfcDoes) {
  EXPECT_EQ(DecodeBase64(""), "");
  EXPECT_EQ(DecodeBase64("Zg=="), "f");
  EXPECT_EQ(DecodeBase64("Zm8="), "fo");
  EXPECT_EQ(DecodeBase64("Zm9vYmFy"), "foobar");
  for (const char* text : {"Zg=", "Zg", "====", "Z===", "Zm9v Zg=", "Zm=v"}) {
    EXPECT_EQ(DecodeBase64(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace teq::text
