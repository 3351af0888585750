#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/worker/engine/verify/whole_model.h"
#include "torch/types.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// A published directory in memory.
struct PublishedFiles {
  nlohmann::ordered_json config;
  std::map<std::string, torch::Tensor> tensors;
};

/// Tests of a reader: a directory of a Llama of one block, hidden size 32, whose parts a test
/// changes before it is read.
class PublishedDirectoryTest : public ::testing::Test {
 protected:
  using Reader = absl::StatusOr<PackedModel> (*)(const std::filesystem::path& directory,
                                                 const model_info::ModelConfig& config);

  explicit PublishedDirectoryTest(Reader reader);
  ~PublishedDirectoryTest() override;

  /// The model's names and shapes: [out, in] by linear layer of its block.
  [[nodiscard]] static std::map<std::string, std::vector<std::int64_t>> LinearShapes();
  /// All tensors but the linear layers of the block, float16.
  [[nodiscard]] static PublishedFiles OtherFiles();

  [[nodiscard]] absl::StatusOr<WholeModel> Read(const PublishedFiles& files);

  /// Expects an error that says each of `messages` after `change` of `files`.
  void ExpectRejected(PublishedFiles files, const std::function<void(PublishedFiles&)>& change,
                      const std::vector<std::string>& messages);

  std::filesystem::path directory_;
  model_info::ModelConfig config_;

 private:
  Reader reader_;
};

}  // namespace teq::verify
