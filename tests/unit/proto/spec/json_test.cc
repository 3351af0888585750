#include "proto/spec/json.h"

#include <cmath>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "proto/spec/job_file.h"
#include "proto/spec/presets.h"
#include "proto/spec/recipe.h"
#include "proto/spec/yaml.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/report.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq {
namespace {

using teq::v1::Job;
using teq::v1::JobSpec;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

Json Parsed(const char* text) { return Json::parse(text); }

// ---- Printing ----

TEST(ToJsonTest, ZeroValuesArePrintedAndUnsetMessagesAndOptionalsAreNot) {
  teq::v1::Progress progress;
  EXPECT_EQ(ToJson(progress).dump(), R"({"stage":"UNSPECIFIED","done":0,"total":0,"unit":""})");
  progress.set_remaining_seconds(0);
  EXPECT_EQ(ToJson(progress)["remaining_seconds"], 0.0);
  EXPECT_FALSE(ToJson(Job()).contains("spec"));
}

TEST(ToJsonTest, NamesAreSnakeCaseInFieldOrder) {
  Job job;
  job.set_name("projects/a/jobs/b");
  const std::string text = ToJson(job).dump();
  EXPECT_LT(text.find("\"status_message\""), text.find("\"attempt_count\""));
  EXPECT_LT(text.find("\"name\""), text.find("\"state\""));
}

TEST(ToJsonTest, SixtyFourBitIntegersAreNumbers) {
  teq::v1::Perplexity perplexity;
  perplexity.set_tokens(9007199254740993);  // 2^53 + 1: lost if it went through a double
  EXPECT_THAT(ToJson(perplexity).dump(), HasSubstr("\"tokens\":9007199254740993"));
}

TEST(ToJsonTest, EnumsLoseTheirPrefix) {
  Job job;
  job.set_state(Job::STATE_RETRY_WAIT);
  EXPECT_EQ(ToJson(job)["state"], "RETRY_WAIT");
  teq::v1::Teq teq;
  teq.set_objective(teq::v1::OBJECTIVE_LM_LOSS);
  teq.set_init(teq::v1::INITIALIZATION_WEIGHT_NORM);
  EXPECT_EQ(ToJson(teq)["objective"], "LM_LOSS");
  EXPECT_EQ(ToJson(teq)["init"], "WEIGHT_NORM");
  EXPECT_EQ(ShortEnumName(teq::v1::FailureClass_descriptor(), teq::v1::FAILURE_CLASS_OUT_OF_MEMORY),
            "OUT_OF_MEMORY");
}

TEST(ToJsonTest, UnknownEnumNumberStaysANumber) {
  teq::v1::Resources resources;
  resources.set_device(static_cast<teq::v1::Device>(99));
  EXPECT_EQ(ToJson(resources)["device"], 99);
  EXPECT_EQ(ShortEnumName(teq::v1::Device_descriptor(), 99), "99");
}

TEST(ToJsonTest, NonFiniteNumbersAreNull) {
  teq::v1::Perplexity perplexity;
  perplexity.set_quantized(std::numeric_limits<double>::infinity());
  perplexity.set_delta(std::nan(""));
  EXPECT_TRUE(ToJson(perplexity)["quantized"].is_null());
  EXPECT_TRUE(ToJson(perplexity)["delta"].is_null());
}

TEST(ToJsonTest, TimesAndDurationsAreAsInProtobuf) {
  Job job;
  job.mutable_create_time()->set_seconds(1700000000);  // date -u -d @1700000000
  job.mutable_create_time()->set_nanos(500'000'000);
  job.mutable_spec()->mutable_limits()->mutable_max_runtime()->set_seconds(86400);
  const Json json = ToJson(job);
  EXPECT_EQ(json["create_time"], "2023-11-14T22:13:20.500Z");
  EXPECT_EQ(json["spec"]["limits"]["max_runtime"], "86400s");
}

TEST(ToJsonTest, MapsAreObjectsWithSortedKeys) {
  Job job;
  (*job.mutable_labels())["team"] = "search";
  (*job.mutable_labels())["app"] = "x";
  EXPECT_EQ(ToJson(job)["labels"].dump(), R"({"app":"x","team":"search"})");
  EXPECT_EQ(ToJson(Job())["labels"].dump(), "{}");
}

TEST(ToJsonTest, DetailsOfAnErrorAreExpanded) {
  Job job;
  *job.mutable_error() = ToProto(Error(absl::StatusCode::kFailedPrecondition, "PERPLEXITY_GATE",
                                       "too far", {{"dataset", "x"}}));
  const Json detail = ToJson(job)["error"]["details"][0];
  EXPECT_EQ(detail["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
  EXPECT_EQ(detail["reason"], "PERPLEXITY_GATE");
  EXPECT_EQ(detail["metadata"]["dataset"], "x");
}

TEST(ToJsonTest, DetailOfAnUnknownTypeKeepsItsBytes) {
  google::rpc::Status status;
  auto* detail = status.add_details();
  detail->set_type_url("type.googleapis.com/acme.Secret");
  detail->set_value("abc");
  EXPECT_EQ(ToJson(status)["details"][0].dump(),
            R"({"@type":"type.googleapis.com/acme.Secret","value":"YWJj"})");
}

// ---- Reading ----

TEST(FromJsonTest, WhatWasPrintedIsReadBack) {
  Job job;
  job.set_name("projects/a/jobs/b");
  job.set_priority(-3);
  job.set_state(Job::STATE_FAILED);
  job.set_fence(1LL << 60);
  (*job.mutable_labels())["a.b/c"] = "ä\"\n";
  auto& spec = *job.mutable_spec();
  spec.mutable_recipe()->mutable_transform()->mutable_teq()->set_learning_rate(0.1);
  spec.mutable_recipe()->mutable_rounding()->mutable_nearest();
  spec.mutable_recipe()->add_overrides()->set_match("re:.*");
  spec.mutable_evaluation()->add_uris("file:///a");
  spec.mutable_output()->add_formats(teq::v1::FORMAT_GPTQ);
  spec.mutable_limits()->mutable_max_runtime()->set_nanos(5);
  (*job.mutable_report()->mutable_timing_seconds())["FETCH"] = 0.25;
  job.mutable_update_time()->set_seconds(12);
  *job.mutable_error() = ToProto(Error(absl::StatusCode::kInternal, "X", "y", {{"k", "v"}}));

  Job read;
  ASSERT_TRUE(FromJson(Json::parse(ToJson(job).dump()), &read).ok());
  EXPECT_EQ(read.DebugString(), job.DebugString());
}

TEST(FromJsonTest, RecipeOfEveryPresetIsReadBackFromJsonAndYaml) {
  for (const PresetText& text : Presets()) {
    teq::v1::Recipe recipe;
    recipe.set_preset(text.preset);
    recipe = RecipeWithDefaults(recipe);
    teq::v1::Recipe read;
    ASSERT_TRUE(FromJson(Json::parse(ToJson(recipe).dump()), &read).ok());
    EXPECT_EQ(read.DebugString(), recipe.DebugString());
    Job job;
    *job.mutable_spec()->mutable_recipe() = recipe;
    const auto file = ParseJobFile(ToYaml(job.spec()), "spec.yaml");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->job.spec().recipe().DebugString(), recipe.DebugString());
  }
}

TEST(FromJsonTest, EnumIsReadWithAndWithoutPrefix) {
  teq::v1::Resources resources;
  ASSERT_TRUE(FromJson(Parsed(R"({"device": "CUDA"})"), &resources).ok());
  EXPECT_EQ(resources.device(), teq::v1::DEVICE_CUDA);
  ASSERT_TRUE(FromJson(Parsed(R"({"device": "DEVICE_HPU"})"), &resources).ok());
  EXPECT_EQ(resources.device(), teq::v1::DEVICE_HPU);
}

struct DurationCase {
  std::string text;
  std::int64_t seconds;
  int nanos;
};

class DurationTest : public ::testing::TestWithParam<DurationCase> {};

TEST_P(DurationTest, IsRead) {
  teq::v1::Limits limits;
  const absl::Status status = FromJson(Json{{"max_runtime", GetParam().text}}, &limits);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(limits.max_runtime().seconds(), GetParam().seconds);
  EXPECT_EQ(limits.max_runtime().nanos(), GetParam().nanos);
}

INSTANTIATE_TEST_SUITE_P(All, DurationTest,
                         ::testing::Values(DurationCase{"90s", 90, 0},
                                           DurationCase{"1.5s", 1, 500'000'000},
                                           DurationCase{"15m", 900, 0},
                                           DurationCase{"6h", 21600, 0},
                                           DurationCase{"7d", 604800, 0}));

TEST(FromJsonTest, IntegersComeAsNumbersAndLongOnesAsTextToo) {
  teq::v1::Calibration calibration;
  ASSERT_TRUE(
      FromJson(Parsed(R"({"seed": "-9223372036854775808", "samples": 1e2})"), &calibration).ok());
  EXPECT_EQ(calibration.seed(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(calibration.samples(), 100);
}

TEST(FromJsonTest, MessageIsClearedFirst) {
  teq::v1::Calibration calibration;
  calibration.set_samples(5);
  ASSERT_TRUE(FromJson(Parsed("{}"), &calibration).ok());
  EXPECT_FALSE(calibration.has_samples());
}

struct BadJson {
  std::string json;
  std::string message;
};

class BadJsonTest : public ::testing::TestWithParam<BadJson> {};

TEST_P(BadJsonTest, NamesPathValueAndWhatIsExpected) {
  Job job;
  const absl::Status status = FromJson(Json::parse(GetParam().json), &job);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "INVALID_JSON");
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadJsonTest,
    ::testing::Values(
        BadJson{
            R"({"spec": {"recipe": {"weigths": {}}}})",
            "spec.recipe.weigths: unknown field; known: weights, transform, rounding, overrides"},
        BadJson{R"({"spec": {"recipe": {"overrides": [{}, {"math": 1}]}}})",
                "spec.recipe.overrides[1].math: unknown field; known: match, weights, skip"},
        BadJson{R"({"state": "DONE"})",
                "state: \"DONE\" is not a known value; known: QUEUED, RUNNING"},
        BadJson{R"({"state": true})", "state: true is not a known value"},
        BadJson{R"({"priority": 2147483648})",
                "priority: 2147483648 is out of range; between -2147483648 and 2147483647"},
        BadJson{R"({"priority": 1e300})", "priority: 1e+300 is out of range"},
        BadJson{R"({"priority": 1.5})", "priority: expected a whole number, got 1.5"},
        BadJson{R"({"priority": "1"})", "priority: expected a whole number, got \"1\""},
        BadJson{R"({"fence": 9223372036854775808})", "fence: 9223372036854775808 is out of range"},
        BadJson{R"({"fence": "1x"})", "fence: expected a whole number, got \"1x\""},
        BadJson{R"({"name": 5})", "name: expected a string, got 5"},
        BadJson{R"({"dead_letter": 1})", "dead_letter: expected true or false, got 1"},
        BadJson{R"({"labels": {"a": null}})", "labels.a: expected a string, got null"},
        BadJson{R"({"labels": []})", "labels: expected a map, got []"},
        BadJson{R"({"spec": []})", "spec: expected an object, got []"},
        BadJson{R"({"spec": {"evaluation": {"uris": "file:///x"}}})",
                "spec.evaluation.uris: expected a list, got \"file:///x\""},
        BadJson{R"({"latest_metrics": {"loss": "low"}})",
                "latest_metrics.loss: expected a finite number, got \"low\""},
        BadJson{R"({"create_time": "yesterday"})", "create_time: expected a time such as"},
        BadJson{R"({"spec": {"limits": {"max_runtime": 90}}})",
                "spec.limits.max_runtime: expected a duration: a number and s, m, h or d, such as "
                "90s, 15m, 6h or 7d, got 90"},
        BadJson{R"({"spec": {"limits": {"max_runtime": "6 h"}}})", "got \"6 h\""},
        BadJson{R"({"spec": {"limits": {"max_runtime": "h"}}})", "got \"h\""},
        BadJson{R"({"spec": {"limits": {"max_runtime": "999999999999d"}}})", "expected a duration"},
        BadJson{R"({"spec": {"recipe": {"transform": {"teq": null}}}})",
                "spec.recipe.transform.teq: has no value; write {} for its defaults"},
        BadJson{R"({"spec": {"recipe": {"clipping": null}}})",
                "spec.recipe.clipping: has no value; give it one, or leave the line out"},
        BadJson{R"({"spec": {"evaluation": {"max_perplexity_delta": null}}})",
                "spec.evaluation.max_perplexity_delta: has no value"},
        BadJson{R"({"error": {"details": [{"reason": "X"}]}})",
                "error.details[0]: expected an object with \"@type\""}));

TEST(FromJsonTest, EverythingThatIsWrongIsTold) {
  Job job;
  const absl::Status status = FromJson(Parsed(R"({"priority": "x", "nmae": 1})"), &job);
  EXPECT_THAT(std::string(status.message()), HasSubstr("priority: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("nmae: unknown field"));
}

TEST(FromJsonTest, RootThatIsNoObjectIsRefused) {
  Job job;
  EXPECT_EQ(ErrorReason(FromJson(Parsed("[1]"), &job)), "INVALID_JSON");
}

TEST(FromJsonTest, TextThatIsNotUtf8IsRefused) {
  Job job;
  const absl::Status status = FromJson(Json{{"name", "\xff\xfe"}}, &job);
  EXPECT_THAT(std::string(status.message()), HasSubstr("name: expected UTF-8 text"));
}

TEST(FromJsonTest, EndlessNestingIsRefused) {
  Json any = {{"@type", "type.googleapis.com/google.rpc.Status"}};
  for (int i = 0; i < 1000; ++i) {
    any = {{"@type", "type.googleapis.com/google.rpc.Status"}, {"details", Json::array({any})}};
  }
  google::rpc::Status status;
  EXPECT_THAT(std::string(FromJson({{"details", Json::array({any})}}, &status).message()),
              HasSubstr("is nested too deeply"));
}

// ---- YAML ----

TEST(ToYamlTest, StringsThatLookLikeOtherTypesAreQuoted) {
  Job job;
  job.set_name("projects/a/jobs/b");
  job.set_uid("123");
  job.set_etag("yes");
  job.set_priority(7);
  job.set_status_message("a: b # c");
  const std::string yaml = ToYaml(job);
  EXPECT_THAT(yaml, HasSubstr("name: projects/a/jobs/b\n"));
  EXPECT_THAT(yaml, HasSubstr("uid: \"123\"\n"));
  EXPECT_THAT(yaml, HasSubstr("etag: \"yes\"\n"));
  EXPECT_THAT(yaml, HasSubstr("priority: 7\n"));
  EXPECT_THAT(yaml, HasSubstr("status_message: \"a: b # c\"\n"));
  EXPECT_THAT(yaml, HasSubstr("dead_letter: false\n"));
}

TEST(ToYamlTest, NullIsNoText) {
  const std::string yaml = WriteYaml({{"nothing", nullptr}, {"text", "null"}});
  EXPECT_EQ(yaml, "nothing: ~\ntext: \"null\"\n");
  EXPECT_TRUE(ReadPlainScalar("~").is_null());
}

TEST(ToYamlTest, EmptyListsAndMapsStandOnTheirLine) {
  teq::v1::Recipe recipe;
  recipe.mutable_rounding()->mutable_nearest();
  EXPECT_EQ(ToYaml(recipe), "rounding:\n  nearest: {}\noverrides: []\npreset: UNSPECIFIED\n");
}

}  // namespace
}  // namespace teq
