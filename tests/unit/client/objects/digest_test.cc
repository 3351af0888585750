#include "client/objects/digest.h"

#include "gtest/gtest.h"

namespace teq::objects {
namespace {

// FIPS 180-2, the two-block message.
TEST(DigestTest, PartsGiveTheDigestOfTheWhole) {
  Sha256Digest digest;
  digest.Add("abcdbcdecdefdefgefghfghighij");
  digest.Add("");
  digest.Add("hijkijkljklmklmnlmnomnopnopq");
  EXPECT_EQ(digest.Hex(), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

// RFC 4231, test case 2.
TEST(DigestTest, HmacIsThatOfTheStandard) {
  EXPECT_EQ(Hex(HmacSha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

// RFC 4648, section 10; RFC 1321, A.5.
TEST(DigestTest, EncodingsAreThoseOfTheStandards) {
  EXPECT_EQ(Base64(""), "");
  EXPECT_EQ(Base64("f"), "Zg==");
  EXPECT_EQ(Base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(FromHex("00fF"), std::string("\0\xff", 2));
  EXPECT_EQ(FromHex("0g"), "");
  EXPECT_EQ(FromHex("000"), "");
  EXPECT_EQ(Hex(Md5("message digest")), "f96b697d7cb7938d525a2f31aaf161d0");
}

}  // namespace
}  // namespace teq::objects
