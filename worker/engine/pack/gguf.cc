#include "worker/engine/pack/gguf.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "client/model_info/gguf_rules.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/pack/gguf_metadata.h"
#include "worker/engine/pack/gguf_tensors.h"
#include "worker/engine/pack/gguf_vocabulary.h"

namespace teq::pack {
namespace {

constexpr std::string_view kFile = "model.gguf";

// Of the layout of quantized blocks; constant since 2023.
constexpr int kQuantizationVersion = 2;

/// llama.cpp's number for a file of mostly this type; for people alone.
int FileType(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ4_1:
      return 3;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
    case GgufType::kTq1_0:
      return 36;
    case GgufType::kTq2_0:
      return 37;
  }
  return 1;
}

/// Of the types of codes the one that most tensors have.
GgufType MostCommon(const std::vector<GgufTensor>& tensors) {
  std::map<GgufType, int> counts;
  for (const GgufTensor& tensor : tensors) {
    if (BlockOf(tensor.type).values > 1) ++counts[tensor.type];
  }
  if (counts.empty()) return GgufType::kF16;
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

absl::StatusOr<std::string> WriteFile(const PackableModel& model,
                                      const std::filesystem::path& file) {
  TEQ_RETURN_IF_ERROR(model_info::CheckGgufModel(model.config));
  TEQ_ASSIGN_OR_RETURN(const std::vector<GgufTensor> tensors, GgufTensors(model));
  GgufMetadata metadata;
  DescribeModel(model.config, metadata);
  metadata.AddNumber("general.file_type", FileType(MostCommon(tensors)));
  metadata.AddNumber("general.quantization_version", kQuantizationVersion);
  metadata.AddText("general.quantized_by", fmt::format("teqd {}", TEQ_VERSION));
  TEQ_RETURN_IF_ERROR(DescribeVocabulary(model.source, model.config.vocabulary_size, metadata));
  return WriteGguf(file, metadata, tensors);
}

}  // namespace

absl::Status CheckGgufTokenizer(const std::filesystem::path& source,
                                const model_info::ModelConfig& config) {
  GgufMetadata unused;
  return WithContext(DescribeVocabulary(source, config.vocabulary_size, unused), "format GGUF");
}

absl::StatusOr<std::map<std::string, std::string>> WriteGgufDirectory(
    const PackableModel& model, const std::filesystem::path& directory) {
  absl::StatusOr<std::string> digest = WriteFile(model, directory / kFile);
  if (!digest.ok()) return WithContext(digest.status(), "format GGUF");
  return std::map<std::string, std::string>{{std::string(kFile), *std::move(digest)}};
}

}  // namespace teq::pack
