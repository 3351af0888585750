#include "worker/agent/config.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ErrorOf(std::string_view yaml) {
  const absl::Status status = ParseWorkerConfig(yaml, "worker.yaml").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "INVALID_CONFIG");
  return std::string(status.message());
}

TEST(ConfigTest, EveryFieldIsRead) {
  const WorkerConfig config = ParseWorkerConfig(
                                  "server: 10.0.0.1:1\nid: w-1\nthreads: 4\nhttp: 127.0.0.1:9\n"
                                  "uri_prefixes:\n- file:///models/\n- file:///data/\n"
                                  "hpu_plugin: /lib/hpu.so\ndevice_index: 3\ndata: /var/lib/teqd\n"
                                  "cache_gib: 7\nlog_format: json\n",
                                  "worker.yaml")
                                  .value();
  EXPECT_EQ(config.server, "10.0.0.1:1");
  EXPECT_EQ(config.id, "w-1");
  EXPECT_EQ(config.threads, 4);
  EXPECT_EQ(config.http, "127.0.0.1:9");
  EXPECT_THAT(config.uri_prefixes, ElementsAre("file:///models/", "file:///data/"));
  EXPECT_EQ(config.hpu_plugin, "/lib/hpu.so");
  EXPECT_EQ(config.device_index, 3);
  EXPECT_EQ(config.data, "/var/lib/teqd");
  EXPECT_EQ(config.cache_gib, 7);
  EXPECT_EQ(config.log_format, logs::Format::kJson);
}

TEST(ConfigTest, EmptyFileMeansTheDefaults) {
  EXPECT_EQ(ParseWorkerConfig("", "worker.yaml").value().server, "127.0.0.1:8470");
}

TEST(ConfigTest, UnknownFieldIsNamedWithItsLineAndTheKnownOnes) {
  const std::string error = ErrorOf("id: w\nservr: x\n");
  EXPECT_THAT(error, HasSubstr("worker.yaml:2: servr: unknown field"));
  EXPECT_THAT(error, HasSubstr("server"));
}

TEST(ConfigTest, FieldGivenTwiceIsAnError) {
  EXPECT_THAT(ErrorOf("id: a\nid: b\n"), HasSubstr("worker.yaml:2: id: is given twice"));
}

TEST(ConfigTest, ValuesOfAnotherKindAreErrorsWithTheirLine) {
  EXPECT_THAT(ErrorOf("id: w\nthreads: many\n"), HasSubstr("worker.yaml:2: threads: must be"));
  EXPECT_THAT(ErrorOf("threads: -1\n"), HasSubstr("threads"));
  EXPECT_THAT(ErrorOf("uri_prefixes: file:///a\n"), HasSubstr("must be a list"));
  EXPECT_THAT(ErrorOf("server: [a]\n"), HasSubstr("must be text"));
  EXPECT_THAT(ErrorOf("cache_gib: 0\n"), HasSubstr("cache_gib: must be a number from 1"));
  EXPECT_THAT(ErrorOf("device_index: -1\n"), HasSubstr("device_index: must be a number from 0"));
  EXPECT_THAT(ErrorOf("log_format: xml\n"), HasSubstr("log_format: must be text or json"));
  EXPECT_THAT(ErrorOf("- a\n"), HasSubstr("the top level"));
}

TEST(ConfigTest, BrokenYamlIsAnErrorWithItsLine) {
  EXPECT_THAT(ErrorOf("id: w\nserver: [\n"), HasSubstr("worker.yaml:"));
}

TEST(ConfigTest, ServerMayHaveEveryNameThatGrpcResolves) {
  for (const char* server :
       {"127.0.0.1:8470", "[::1]:8470", "teqd-server:8470", "dns:teqd-server:8470",
        "dns:///teqd-server", "ipv4:10.0.0.1:8470,10.0.0.2:8470", "unix:/run/teqd.sock",
        "unix:///run/teqd.sock", "unix-abstract:teqd"}) {
    EXPECT_TRUE(CheckWorkerConfig({.server = server}).ok()) << server;
  }
  for (const char* server : {"", "localhost", "localhost:", "localhost:0", "localhost:x", ":8470",
                             "::1", "http://localhost:8470", "unix:"}) {
    const absl::Status status = CheckWorkerConfig({.server = server});
    EXPECT_EQ(ErrorReason(status), "INVALID_CONFIG") << server;
    EXPECT_THAT(std::string(status.message()), HasSubstr("server: \"" + std::string(server) + "\""))
        << server;
  }
}

TEST(ConfigTest, DataMustBeNamed) {
  const absl::Status status = CheckWorkerConfig({.data = ""});
  EXPECT_EQ(ErrorReason(status), "INVALID_CONFIG");
  EXPECT_THAT(std::string(status.message()), HasSubstr("data: "));
}

TEST(ConfigTest, AddressOfMetricsIsNamedWhereItIsNone) {
  EXPECT_TRUE(CheckWorkerConfig({.http = "127.0.0.1:0"}).ok());
  const absl::Status status = CheckWorkerConfig({.http = "9471"});
  EXPECT_EQ(ErrorReason(status), "INVALID_ADDRESS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("http: 9471: "));
}

TEST(ConfigTest, WorkerIdIsTheGivenOneOrTheHosts) {
  EXPECT_EQ(WorkerId("pod-7.a_b").value(), "pod-7.a_b");
  EXPECT_FALSE(WorkerId("").value().empty());
}

TEST(ConfigTest, BadWorkerIdIsNamedWithTheRemedy) {
  const absl::Status status = WorkerId("a b").status();
  EXPECT_EQ(ErrorReason(status), "INVALID_CONFIG");
  EXPECT_THAT(std::string(status.message()), HasSubstr("'a b'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--id"));
  EXPECT_FALSE(WorkerId(std::string(64, 'a')).ok());
}

}  // namespace
}  // namespace teq::agent
