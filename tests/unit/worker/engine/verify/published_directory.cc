#include "tests/unit/worker/engine/verify/published_directory.h"

#include <fstream>

#include "client/model_info/layout.h"
#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace teq::verify {
namespace {

nlohmann::ordered_json ModelJson() {
  return {{"model_type", "llama"},    {"hidden_size", 32},
          {"intermediate_size", 64},  {"num_hidden_layers", 1},
          {"num_attention_heads", 4}, {"num_key_value_heads", 4},
          {"vocab_size", 16},         {"tie_word_embeddings", false},
          {"torch_dtype", "float16"}};
}

model_info::ModelConfig TinyConfig() {
  return model_info::ParseModelConfig(ModelJson(), "config.json").value();
}

}  // namespace

PublishedDirectoryTest::PublishedDirectoryTest(Reader reader)
    : directory_(std::filesystem::path(::testing::TempDir()) /
                 ("teq-read-" + std::to_string(getpid()))),
      config_(TinyConfig()),
      reader_(reader) {}

PublishedDirectoryTest::~PublishedDirectoryTest() { std::filesystem::remove_all(directory_); }

std::map<std::string, std::vector<std::int64_t>> PublishedDirectoryTest::LinearShapes() {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    shapes[std::string("model.layers.0.self_attn.") + name] = {32, 32};
  }
  shapes["model.layers.0.mlp.gate_proj"] = {64, 32};
  shapes["model.layers.0.mlp.up_proj"] = {64, 32};
  shapes["model.layers.0.mlp.down_proj"] = {32, 64};
  return shapes;
}

PublishedFiles PublishedDirectoryTest::OtherFiles() {
  PublishedFiles files{.config = ModelJson(), .tensors = {}};
  const auto add = [&](const char* name, std::vector<std::int64_t> shape) {
    files.tensors[name] = torch::ones(shape, torch::kFloat16);
  };
  add("model.embed_tokens.weight", {16, 32});
  add("lm_head.weight", {16, 32});
  add("model.norm.weight", {32});
  add("model.layers.0.input_layernorm.weight", {32});
  add("model.layers.0.post_attention_layernorm.weight", {32});
  return files;
}

absl::StatusOr<WholeModel> PublishedDirectoryTest::Read(const PublishedFiles& files) {
  std::filesystem::remove_all(directory_);
  std::filesystem::create_directories(directory_);
  std::ofstream(directory_ / "config.json") << files.config;
  TEQ_RETURN_IF_ERROR(checkpoint::WriteSafetensors(directory_ / "model.safetensors",
                                                   {files.tensors.begin(), files.tensors.end()}));
  return ReadWhole(reader_(directory_, config_));
}

void PublishedDirectoryTest::ExpectRejected(PublishedFiles files,
                                            const std::function<void(PublishedFiles&)>& change,
                                            const std::vector<std::string>& messages) {
  change(files);
  const absl::StatusOr<WholeModel> model = Read(files);
  ASSERT_FALSE(model.ok()) << messages.front();
  EXPECT_EQ(model.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(model.status()), "VERIFY_FAILED");
  for (const std::string& message : messages) {
    EXPECT_THAT(std::string(model.status().message()), ::testing::HasSubstr(message));
  }
}

}  // namespace teq::verify
