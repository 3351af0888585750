#include "server/config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ConfigTest, EmptyFileMeansTheDefaults) {
  for (const char* yaml : {"", "# nothing\n", "---\n"}) {
    const auto config = ParseConfig(yaml, "server.yaml");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->listen, "127.0.0.1:8470");
    EXPECT_EQ(config->http, "127.0.0.1:8471");
    EXPECT_EQ(config->data, "./teqd-data");
    EXPECT_EQ(config->lease_duration, absl::Seconds(30));
    EXPECT_TRUE(CheckConfig(*config).ok());
  }
}

TEST(ConfigTest, ReadsEveryKey) {
  const auto config = ParseConfig(
      "listen: 0.0.0.0:9000\n"
      "http: 0.0.0.0:9001\n"
      "data: /var/lib/teqd\n"
      "allow_plaintext: true\n"
      "uri_prefixes: [file:///models, file:///data]\n"
      "lease_duration: 2m\n"
      "drain_timeout: 1.5s\n"
      "log_format: json\n"
      "limits:\n"
      "  queued_jobs_per_project: 5\n"
      "  watch_streams: 6\n"
      "  waiting_workers: 7\n"
      "  spec_bytes: 8\n"
      "  events_per_job: 9\n"
      "  metrics_jobs: 10\n"
      "  metrics_projects: 11\n",
      "server.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->listen, "0.0.0.0:9000");
  EXPECT_EQ(config->http, "0.0.0.0:9001");
  EXPECT_EQ(config->data, "/var/lib/teqd");
  EXPECT_TRUE(config->allow_plaintext);
  EXPECT_THAT(config->uri_prefixes, ElementsAre("file:///models", "file:///data"));
  EXPECT_EQ(config->lease_duration, absl::Minutes(2));
  EXPECT_EQ(config->drain_timeout, absl::Milliseconds(1500));
  EXPECT_EQ(config->log_format, logs::Format::kJson);
  EXPECT_EQ(config->limits.queued_jobs_per_project, 5);
  EXPECT_EQ(config->limits.watch_streams, 6);
  EXPECT_EQ(config->limits.waiting_workers, 7);
  EXPECT_EQ(config->limits.spec_bytes, 8);
  EXPECT_EQ(config->limits.events_per_job, 9);
  EXPECT_EQ(config->limits.metrics_jobs, 10);
  EXPECT_EQ(config->limits.metrics_projects, 11);
  EXPECT_TRUE(CheckConfig(*config).ok());
}

TEST(ConfigTest, LeasesAreFiveSecondsAtLeast) {
  const auto config = ParseConfig("lease_duration: 5s\n", "server.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->lease_duration, absl::Seconds(5));
}

struct BadConfig {
  const char* yaml;
  const char* message;
};

class BadConfigTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, ErrorNamesFileLineAndKey) {
  const absl::Status status = ParseConfig(GetParam().yaml, "server.yaml").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ErrorReason(status), "INVALID_CONFIG");
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Configs, BadConfigTest,
    ::testing::Values(
        BadConfig{"http: 127.0.0.1:1\nlistne: x\n", "server.yaml:2: listne: unknown key; known: "},
        BadConfig{"limits:\n  watches: 1\n", "server.yaml:2: limits.watches: unknown key"},
        BadConfig{"data: a\ndata: b\n", "server.yaml:2: data: given twice"},
        BadConfig{"lease_duration: 30\n", "server.yaml:1: lease_duration: expected a duration"},
        BadConfig{"lease_duration: 10ms\n", "server.yaml:1: lease_duration: expected a duration"},
        BadConfig{"lease_duration: 0.1s\n", "expected at least 5s, not \"0.1s\""},
        BadConfig{"lease_duration: 4.9s\n", "lease_duration: expected at least 5s, not \"4.9s\""},
        BadConfig{"lease_duration: nans\n", "expected a duration"},
        BadConfig{"allow_plaintext: perhaps\n", "expected true or false, not \"perhaps\""},
        BadConfig{"log_format: xml\n", "log_format: expected text or json, not \"xml\""},
        BadConfig{"uri_prefixes: file:///a\n", "expected a list, not \"file:///a\""},
        BadConfig{"limits: {watch_streams: 0}\n", "limits.watch_streams: expected a positive"},
        BadConfig{"limits: 3\n", "limits.expected keys and values"},
        BadConfig{"- a\n", "expected keys and values"}, BadConfig{"listen: [a\n", "server.yaml:"},
        BadConfig{"listen: a:1\n---\nlisten: b:1\n", "more than one document"}));

TEST(ConfigTest, FileOfNoBytesMeansTheDefaults) {
  const auto config = ReadConfig("/dev/null");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->listen, "127.0.0.1:8470");
}

TEST(ConfigTest, MissingFileIsNamed) {
  const absl::Status status = ReadConfig("/none/server.yaml").status();
  EXPECT_EQ(ErrorReason(status), "CONFIG_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), HasSubstr("/none/server.yaml"));
}

TEST(ConfigTest, OpenAddressNeedsAnAllowListAndPlaintextByName) {
  Config config;
  config.listen = "0.0.0.0:8470";
  config.allow_plaintext = true;
  const absl::Status open = CheckConfig(config);
  EXPECT_EQ(ErrorReason(open), "URI_PREFIXES_REQUIRED");
  EXPECT_THAT(std::string(open.message()), HasSubstr("0.0.0.0:8470"));
  config.uri_prefixes = {"file:///models"};
  EXPECT_TRUE(CheckConfig(config).ok());
  config.allow_plaintext = false;
  const absl::Status plain = CheckConfig(config);
  EXPECT_EQ(ErrorReason(plain), "PLAINTEXT_NOT_ALLOWED");
  EXPECT_THAT(std::string(plain.message()), HasSubstr("allow_plaintext: true"));
  EXPECT_THAT(std::string(plain.message()), HasSubstr("--allow-plaintext"));
}

TEST(ConfigTest, MetricsForOtherMachinesNeedPlaintextByNameToo) {
  Config config;
  config.http = "[::]:8471";
  const absl::Status plain = CheckConfig(config);
  EXPECT_EQ(ErrorReason(plain), "PLAINTEXT_NOT_ALLOWED");
  EXPECT_THAT(std::string(plain.message()), HasSubstr("http: other machines can reach [::]:8471"));
  config.allow_plaintext = true;
  EXPECT_TRUE(CheckConfig(config).ok());
}

TEST(ConfigTest, BadAddressesAndPrefixesAreRefused) {
  Config config;
  config.http = "8471";
  EXPECT_EQ(ErrorReason(CheckConfig(config)), "INVALID_ADDRESS");
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("http: 8471: not an address"));
  config = {};
  config.listen = ":8470";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("listen: :8470: "));
  config = {};
  config.uri_prefixes = {"/models"};
  EXPECT_EQ(ErrorReason(CheckConfig(config)), "INVALID_URI");
  config.uri_prefixes = {"s3://Bucket"};
  EXPECT_EQ(ErrorReason(CheckConfig(config)), "INVALID_URI");
}

TEST(ConfigTest, PrefixesOfEverySchemeAreTaken) {
  Config config;
  config.listen = "0.0.0.0:8470";
  config.allow_plaintext = true;
  config.uri_prefixes = {"file:///models", "s3://bucket/out", "https://models.internal",
                         "hf://org"};
  EXPECT_TRUE(CheckConfig(config).ok()) << CheckConfig(config);
}

}  // namespace
}  // namespace teq::server
