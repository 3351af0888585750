#include "client/objects/s3_answers.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

// The documents are those of the reference of Amazon S3's API, shortened.

TEST(S3AnswersTest, ErrorIsReadAndWhatIsNoneIsEmpty) {
  const S3Error error = ParseError(R"(<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>NoSuchKey</Code><Message>The resource you requested does not exist</Message>
<Resource>/mybucket/myfoto.jpg</Resource><RequestId>4442587FB7D0A2F9</RequestId></Error>)");
  EXPECT_EQ(error.code, "NoSuchKey");
  EXPECT_EQ(error.message, "The resource you requested does not exist");
  EXPECT_EQ(ParseError("<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>"
                       "</Error>")
                .region,
            "eu-west-1");
  for (const char* none :
       {"", "<html><body>Bad Gateway</body></html>", "<Error><Code>Cut", "\xff"}) {
    EXPECT_EQ(ParseError(none).code, "") << none;
  }
}

TEST(S3AnswersTest, ErrorOfStsIsRead) {
  EXPECT_EQ(ParseError("<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error>"
                       "</ErrorResponse>")
                .code,
            "AccessDenied");
}

TEST(S3AnswersTest, PageOfAListHasDecodedKeysAndTheNextToken) {
  const auto page = ParseListPage(R"(<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>
<Contents><Key>a/my+key%2B%25%C3%A4.txt</Key><ETag>&quot;70ee1738b6b21e2c8a43f3a5ab0eee71&quot;</ETag>
<Size>5368709121</Size></Contents><Contents><Key>b</Key><Size>0</Size></Contents>
</ListBucketResult>)");
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->objects.size(), 2);
  EXPECT_EQ(page->objects[0].key, "a/my key+%ä.txt");
  EXPECT_EQ(page->objects[0].bytes, 5'368'709'121);
  EXPECT_EQ(page->objects[0].etag, "\"70ee1738b6b21e2c8a43f3a5ab0eee71\"");
  EXPECT_EQ(page->next, "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=");
}

TEST(S3AnswersTest, KeysThatAreNotEncodedAreTakenAsTheyAre) {
  const auto page = ParseListPage(
      "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a+b%20</Key></Contents>"
      "</ListBucketResult>");
  EXPECT_EQ(page->objects[0].key, "a+b%20");
  EXPECT_EQ(page->next, "");
}

TEST(S3AnswersTest, WhatIsNoListIsAnErrorAndNotAnEmptyOne) {
  for (const char* bad :
       {"", "<html/>", "<ListBucketResult><Contents>",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        "<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>%4</Key>"
        "</Contents></ListBucketResult>"}) {
    EXPECT_EQ(ErrorReason(ParseListPage(bad).status()), "BAD_ANSWER") << bad;
  }
}

TEST(S3AnswersTest, EntitiesOfTheDocumentsOwnAreNotExpanded) {
  const auto page = ParseListPage(
      "<!DOCTYPE l [<!ENTITY a "
      "\"aaaaaaaaaa\">]><ListBucketResult><Contents><Key>&a;</Key></Contents>"
      "</ListBucketResult>");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->objects[0].key, "&a;");
}

TEST(S3AnswersTest, DeepDocumentIsReadWithoutHarm) {
  std::string deep;
  for (int i = 0; i < 1'000'000; ++i) deep += "<a>";
  EXPECT_EQ(ErrorReason(ParseListPage(deep).status()), "BAD_ANSWER");
}

TEST(S3AnswersTest, PageOfUploadsNamesThemAndTheNextPage) {
  const auto page = ParseUploadsPage(R"(<ListMultipartUploadsResult>
<EncodingType>url</EncodingType><NextKeyMarker>my+movie</NextKeyMarker>
<NextUploadIdMarker>YW55IGlkZWEg</NextUploadIdMarker><IsTruncated>true</IsTruncated>
<Upload><Key>my+divisor</Key><UploadId>XMgbGlrZSBlbHZpbmc</UploadId></Upload>
</ListMultipartUploadsResult>)");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->uploads.at(0).key, "my divisor");
  EXPECT_EQ(page->uploads.at(0).id, "XMgbGlrZSBlbHZpbmc");
  EXPECT_FALSE(page->is_last);
  EXPECT_EQ(page->next_key, "my movie");
  EXPECT_EQ(page->next_id, "YW55IGlkZWEg");
}

TEST(S3AnswersTest, UploadIsNamedByItsId) {
  EXPECT_EQ(*ParseUploadId("<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>"
                           "<UploadId>VXBsb2FkIElE</UploadId></InitiateMultipartUploadResult>"),
            "VXBsb2FkIElE");
  EXPECT_EQ(ErrorReason(ParseUploadId("<InitiateMultipartUploadResult/>").status()), "BAD_ANSWER");
}

TEST(S3AnswersTest, BodyOfCompletionListsPartsInOrderAndEscapesThem) {
  EXPECT_EQ(CompleteBody({{.etag = "\"a\"", .sha256 = "c2hh"}, {.etag = "b<"}}),
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
            "<Part><PartNumber>1</PartNumber><ETag>\"a\"</ETag>"
            "<ChecksumSHA256>c2hh</ChecksumSHA256></Part>"
            "<Part><PartNumber>2</PartNumber><ETag>b&lt;</ETag></Part></CompleteMultipartUpload>");
}

// The example of AssumeRoleWithWebIdentity in the reference of AWS STS.
TEST(S3AnswersTest, KeysOfAnAssumedRoleAreReadWithTheirExpiry) {
  const auto keys = ParseAssumedRole(R"(<AssumeRoleWithWebIdentityResponse
 xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><SessionToken>AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE</SessionToken>
<SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey>
<Expiration>2014-10-24T23:00:23Z</Expiration><AccessKeyId>ASgeIAIOSFODNN7EXAMPLE</AccessKeyId>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>)");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->access_key_id, "ASgeIAIOSFODNN7EXAMPLE");
  EXPECT_EQ(keys->expiry,
            absl::FromCivil(absl::CivilSecond(2014, 10, 24, 23, 0, 23), absl::UTCTimeZone()));
}

}  // namespace
}  // namespace teq::objects
