#include "client/objects/endpoint.h"

#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Environment Variables(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const std::string& name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::string() : found->second;
  };
}

TEST(EndpointTest, AwsIsTheDefaultWithTheBucketInTheHost) {
  const auto endpoint = EndpointOf(Variables({{"AWS_REGION", "eu-central-1"}}), "bucket");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->origin, "https://bucket.s3.eu-central-1.amazonaws.com");
  EXPECT_EQ(endpoint->host, "bucket.s3.eu-central-1.amazonaws.com");
  EXPECT_EQ(endpoint->base_path, "/");
  EXPECT_EQ(endpoint->region, "eu-central-1");
  EXPECT_EQ(EndpointOf(Variables({}), "bucket")->region, "us-east-1");
  EXPECT_EQ(EndpointOf(Variables({{"AWS_DEFAULT_REGION", "cn-north-1"}}), "bucket")->host,
            "bucket.s3.cn-north-1.amazonaws.com.cn");
}

TEST(EndpointTest, BucketWithDotsStandsInThePathForTheSakeOfTheCertificate) {
  const auto endpoint = EndpointOf(Variables({}), "my.bucket");
  EXPECT_EQ(endpoint->origin, "https://s3.us-east-1.amazonaws.com");
  EXPECT_EQ(endpoint->base_path, "/my.bucket/");
}

TEST(EndpointTest, OtherStoresHaveTheBucketInThePathUnlessToldOtherwise) {
  const auto path = EndpointOf(Variables({{"AWS_ENDPOINT_URL", "https://store:9000/"}}), "bucket");
  EXPECT_EQ(path->origin, "https://store:9000");
  EXPECT_EQ(path->host, "store:9000");
  EXPECT_EQ(path->base_path, "/bucket/");
  const auto virtual_host = EndpointOf(
      Variables({{"AWS_ENDPOINT_URL", "https://store:9000"}, {"TEQ_S3_ADDRESSING", "virtual"}}),
      "bucket");
  EXPECT_EQ(virtual_host->origin, "https://bucket.store:9000");
  EXPECT_EQ(EndpointOf(Variables({{"TEQ_S3_ADDRESSING", "path"}}), "bucket")->base_path,
            "/bucket/");
}

TEST(EndpointTest, PortThatTheSchemeHasAnywayIsNotSigned) {
  const auto host = [](const char* url) {
    return EndpointOf(Variables({{"AWS_ENDPOINT_URL", url}, {"TEQ_S3_ALLOW_HTTP", "1"}}), "bucket")
        ->host;
  };
  EXPECT_EQ(host("https://store:443"), "store");
  EXPECT_EQ(host("http://store:80/"), "store");
  EXPECT_EQ(host("https://store:"), "store");
  EXPECT_EQ(host("http://[::1]:80"), "[::1]");
  EXPECT_EQ(host("http://store:443"), "store:443");
  EXPECT_EQ(host("https://store:80"), "store:80");
  EXPECT_EQ(EndpointOf(Variables({{"AWS_ENDPOINT_URL", "https://store:443"},
                                  {"TEQ_S3_ADDRESSING", "virtual"}}),
                       "bucket")
                ->origin,
            "https://bucket.store");
}

TEST(EndpointTest, CertificatesAreThoseOfAwsElseThoseOfAll) {
  EXPECT_EQ(BucketCertificates(Variables({{"AWS_CA_BUNDLE", "/aws"}, {"SSL_CERT_FILE", "/all"}})),
            "/aws");
  EXPECT_EQ(BucketCertificates(Variables({{"SSL_CERT_FILE", "/all"}})), "/all");
  EXPECT_EQ(BucketCertificates(Variables({})), "");
}

TEST(EndpointTest, VariableOfS3GoesBeforeThatOfAllServices) {
  EXPECT_EQ(EndpointOf(Variables({{"AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"},
                                  {"AWS_ENDPOINT_URL", "https://other"}}),
                       "bucket")
                ->origin,
            "http://127.0.0.1:1");
}

TEST(EndpointTest, UnencryptedEndpointIsForLoopbackOrAskedFor) {
  for (const char* loopback : {"http://127.0.0.1:7480", "http://localhost", "http://[::1]:80"}) {
    EXPECT_TRUE(EndpointOf(Variables({{"AWS_ENDPOINT_URL", loopback}}), "bucket").ok()) << loopback;
  }
  for (const char* remote : {"http://store:9000", "http://127.evil.org", "http://10.0.0.1"}) {
    const auto endpoint = EndpointOf(Variables({{"AWS_ENDPOINT_URL", remote}}), "bucket");
    EXPECT_EQ(ErrorReason(endpoint.status()), "INVALID_ENDPOINT") << remote;
    EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("TEQ_S3_ALLOW_HTTP=1"));
    EXPECT_TRUE(
        EndpointOf(Variables({{"AWS_ENDPOINT_URL", remote}, {"TEQ_S3_ALLOW_HTTP", "1"}}), "bucket")
            .ok());
  }
}

TEST(EndpointTest, BadVariablesAreNamed) {
  for (const char* bad : {"store:9000", "ftp://store", "https://", "https://:443",
                          "https://store/path", "https://store?x"}) {
    const auto endpoint = EndpointOf(Variables({{"AWS_ENDPOINT_URL_S3", bad}}), "bucket");
    EXPECT_EQ(ErrorReason(endpoint.status()), "INVALID_ENDPOINT") << bad;
    EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("AWS_ENDPOINT_URL_S3: \""));
  }
  const auto secret =
      EndpointOf(Variables({{"AWS_ENDPOINT_URL_S3", "https://user:secret@store"}}), "bucket");
  EXPECT_THAT(std::string(secret.status().message()), Not(HasSubstr("secret")));
  EXPECT_EQ(ErrorReason(EndpointOf(Variables({{"TEQ_S3_ADDRESSING", "dns"}}), "bucket").status()),
            "INVALID_ENDPOINT");
}

TEST(EndpointTest, KeysAreReadFromPlacesThatNobodyElseHears) {
  for (const char* good :
       {"https://anywhere/x", "http://127.0.0.1:51678/v2", "http://169.254.170.23/v1",
        "http://[fd00:ec2::23]/v1", "http://localhost/x"}) {
    EXPECT_TRUE(IsTrustedForKeys(good)) << good;
  }
  for (const char* bad :
       {"http://example.org/", "http://169.254.170.2.example.org/", "http://127.0.0.1@example.org/",
        "ftp://127.0.0.1/", "http://127.a.b/", ""}) {
    EXPECT_FALSE(IsTrustedForKeys(bad)) << bad;
  }
}

}  // namespace
}  // namespace teq::objects
