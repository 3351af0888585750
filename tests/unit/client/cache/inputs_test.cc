#include "client/cache/inputs.h"

#include <cstring>

#include "client/model_info/safetensors_header.h"
#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/client/cache/cache_test_base.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// A safetensors file of two int8 tensors: "first" of `bytes` bytes, and "last" of twice as many.
std::string Weights(std::uint64_t bytes) {
  const std::string header =
      fmt::format(R"({{"first":{{"dtype":"I8","shape":[{0}],"data_offsets":[0,{0}]}},)"
                  R"("last":{{"dtype":"I8","shape":[{1}],"data_offsets":[{0},{2}]}}}})",
                  bytes, 2 * bytes, 3 * bytes);
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(bytes, 'f') + std::string(2 * bytes, 'l');
}

class InputsTest : public CacheTestBase {
 protected:
  Inputs Make(UriPolicy policy = {}) {
    return Inputs(
        OptionsOf(1'000'000), std::move(policy),
        {.go_on = [this] { return goes_on_; }, .on_progress = [](std::uint64_t, std::uint64_t) {}},
        [this](std::string_view uri) -> absl::StatusOr<std::shared_ptr<objects::ObjectStore>> {
          opened_.emplace_back(uri);
          return store_;
        });
  }

  bool goes_on_ = true;
  std::vector<std::string> opened_;
};

TEST_F(InputsTest, FirstTensorOfAModelCostsLessThanHalfOfIt) {
  const std::string weights = Weights(10'000);
  store_->Put("config.json", "{}");
  store_->Put("model.safetensors", weights);
  Inputs inputs = Make();
  const auto model = inputs.FetchModel("s3://bucket/model");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(ContentOf(model->directory / "config.json"), "{}");
  EXPECT_FALSE(model->is_whole);
  const auto index = model_info::ReadCheckpointIndex(model->directory, inputs);
  ASSERT_TRUE(index.ok()) << index.status();
  // The header alone: the config, and what chunks hold of it.
  EXPECT_LT(store_->bytes_read(), 300);
  const model_info::TensorInfo& first = index->tensors.at("first");
  ASSERT_TRUE(inputs.EnsureRange(first.file, first.offset, first.bytes).ok());
  EXPECT_EQ(ContentOf(first.file).substr(first.offset, first.bytes), std::string(10'000, 'f'));
  EXPECT_LT(store_->bytes_read(), weights.size() / 2);
  EXPECT_EQ(ContentOf(first.file).back(), '\0');
  inputs.Prefetch();
  ASSERT_TRUE(inputs.Sha256(first.file).ok());
  EXPECT_EQ(ContentOf(first.file), weights);
}

TEST_F(InputsTest, ShardsOfAServerWithoutAListAreFoundByTheIndex) {
  store_ = std::make_shared<FakeStore>("https://host/model", /*is_listable=*/false);
  store_->Put("config.json", "{}");
  store_->Put("model.safetensors.index.json",
              R"({"weight_map":{"first":"deep/a.safetensors","last":"deep/a.safetensors"}})");
  store_->Put("deep/a.safetensors", Weights(8));
  store_->Put("tokenizer.json", "{ }");
  store_->Put("other.safetensors", Weights(8));
  Inputs inputs = Make();
  const auto model = inputs.FetchModel("https://host/model");
  ASSERT_TRUE(model.ok()) << model.status();
  const auto index = model_info::ReadCheckpointIndex(model->directory, inputs);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->tensors.size(), 2);
  EXPECT_EQ(ContentOf(model->directory / "tokenizer.json"), "{ }");
  EXPECT_FALSE(fs::exists(model->directory / "other.safetensors"));
}

TEST_F(InputsTest, WhatAModelMayLackMayBeForbiddenByAServerWithoutAList) {
  store_ = std::make_shared<FakeStore>("https://host/model", /*is_listable=*/false);
  store_->forbids_missing = true;
  store_->Put("config.json", "{}");
  store_->Put("model.safetensors.index.json", R"({"weight_map":{"first":"a.safetensors"}})");
  store_->Put("a.safetensors", Weights(8));
  Inputs inputs = Make();
  const auto model = inputs.FetchModel("https://host/model");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(fs::exists(model->directory / "a.safetensors"));
}

TEST_F(InputsTest, ConfigAndWeightsThatAreForbiddenAreAnError) {
  for (const char* forbidden : {"config.json", "model.safetensors", "a.safetensors"}) {
    store_ = std::make_shared<FakeStore>("https://host/model", /*is_listable=*/false);
    store_->forbidden = {forbidden};
    store_->Put("config.json", "{}");
    if (forbidden == std::string_view("a.safetensors")) {
      store_->Put("model.safetensors.index.json", R"({"weight_map":{"first":"a.safetensors"}})");
    }
    Inputs inputs = Make();
    const absl::Status status = inputs.FetchModel("https://host/model").status();
    EXPECT_EQ(ErrorReason(status), "OBJECT_ACCESS_DENIED") << forbidden;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(fmt::format("https://host/model/{}", forbidden)));
  }
}

TEST_F(InputsTest, PickledWeightsAreRefusedUnfetched) {
  for (const bool is_listable : {true, false}) {
    store_ = std::make_shared<FakeStore>("s3://bucket/model", is_listable);
    store_->Put("config.json", "{}");
    store_->Put("pytorch_model.bin", std::string(100'000, 'p'));
    Inputs inputs = Make();
    const absl::Status status = inputs.Named(inputs.FetchModel("s3://bucket/model").status());
    EXPECT_EQ(ErrorReason(status), "INVALID_CHECKPOINT");
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("s3://bucket/model/pytorch_model.bin"), HasSubstr("convert"),
                      Not(HasSubstr(root_.string()))));
    EXPECT_LE(store_->bytes_read(), 2);  // the config alone
  }
}

TEST_F(InputsTest, SmallFileThatIsNotWhatTheStoreAnnouncedIsRefused) {
  store_->Put("config.json", "{}");
  store_->Put("tokenizer.json", "{ }", std::string(64, 'a'));
  Inputs inputs = Make();
  const absl::Status status = inputs.FetchModel("s3://bucket/model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/model/tokenizer.json"));
  // printf '{ }' | sha256sum
  store_->Put("tokenizer.json", "{ }",
              "257c1be96ae69f4b01c2c69bdb6d78605f59175819fb007d0bf245bf48444c4a");
  EXPECT_TRUE(Make().FetchModel("s3://bucket/model").ok());
}

TEST_F(InputsTest, ErrorsNameTheUriAndKeepTheirReason) {
  store_->Put("config.json", "{}");
  store_->Put("model.safetensors", "short");
  Inputs inputs = Make();
  const auto model = inputs.FetchModel("s3://bucket/model");
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::Status status =
      inputs.Named(model_info::ReadCheckpointIndex(model->directory, inputs).status());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "INVALID_CHECKPOINT");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("s3://bucket/model/model.safetensors: has 5"));
}

TEST_F(InputsTest, MissingShardIsNamedByTheReaderOfTheIndex) {
  store_->Put("model.safetensors.index.json", R"({"weight_map":{"first":"a.safetensors"}})");
  Inputs inputs = Make();
  const auto model = inputs.FetchModel("s3://bucket/model");
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::Status status = model_info::ReadCheckpointIndex(model->directory, inputs).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("a.safetensors, which is missing"));
}

TEST_F(InputsTest, IndexThatLeavesTheModelIsRefused) {
  store_->Put("model.safetensors.index.json", R"({"weight_map":{"first":"../a.safetensors"}})");
  Inputs inputs = Make();
  const absl::Status status = inputs.FetchModel("s3://bucket/model").status();
  EXPECT_EQ(ErrorReason(status), "INVALID_CHECKPOINT");
  EXPECT_THAT(std::string(status.message()), HasSubstr("../a.safetensors"));
}

TEST_F(InputsTest, HubsModelIsNamedByItsCommit) {
  store_ = std::make_shared<FakeStore>("hf://owner/name@0123abc");
  store_->Put("config.json", "{}");
  Inputs inputs = Make();
  EXPECT_EQ(inputs.FetchModel("hf://owner/name@main")->uri, "hf://owner/name@0123abc");
}

TEST_F(InputsTest, TextsOfOneNameStayApartAndKeepIt) {
  store_->Put("text.jsonl", "one");
  Inputs inputs = Make();
  const auto one = inputs.FetchText("s3://bucket/a/text.jsonl");
  ASSERT_TRUE(one.ok()) << one.status();
  store_->Put("text.jsonl", "two");
  const auto two = inputs.FetchText("https://host/b/text.jsonl");
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(one->filename(), "text.jsonl");
  EXPECT_EQ(two->filename(), "text.jsonl");
  EXPECT_EQ(ContentOf(*one), "one");
  EXPECT_EQ(ContentOf(*two), "two");
  EXPECT_THAT(opened_, ::testing::ElementsAre("s3://bucket/a", "https://host/b"));
}

TEST_F(InputsTest, MissingTextIsNotFoundByItsUri) {
  Inputs inputs = Make();
  const absl::Status status = inputs.FetchText("s3://bucket/a/text.txt").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(status), "TEXT_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/a/text.txt"));
}

TEST_F(InputsTest, PolicyHoldsForTheWholeUri) {
  store_->Put("text.txt", "text");
  Inputs inputs = Make({.allowed_prefixes = {"s3://bucket/a/text.txt", "s3://models/"}});
  EXPECT_TRUE(inputs.FetchText("s3://bucket/a/text.txt").ok());
  EXPECT_EQ(ErrorReason(inputs.FetchText("s3://bucket/a/other.txt").status()), "URI_NOT_ALLOWED");
  EXPECT_EQ(ErrorReason(inputs.FetchModel("s3://bucket/a").status()), "URI_NOT_ALLOWED");
  EXPECT_EQ(opened_.size(), 1);
}

TEST_F(InputsTest, CancelledFetchSaysSo) {
  store_->Put("config.json", "{}");
  Inputs inputs = Make();
  goes_on_ = false;
  const absl::Status status = inputs.FetchModel("s3://bucket/model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ErrorReason(status), "CANCELLED");
}

TEST_F(InputsTest, WhatLiesOnTheDiskIsReadThereAndMakesNoCache) {
  Inputs inputs = Make();
  const auto model = inputs.FetchModel("file:///models/a");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->directory, "/models/a");
  EXPECT_TRUE(model->is_whole);
  EXPECT_EQ(*inputs.FetchText("file:///data/t.txt"), "/data/t.txt");
  EXPECT_TRUE(inputs.EnsureRange("/models/a/model.safetensors", 0, 100).ok());
  inputs.Prefetch();
  EXPECT_FALSE(fs::exists(root_ / "cache"));
}

}  // namespace
}  // namespace teq::cache
