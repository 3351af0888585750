#include "worker/engine/pack/gguf_container.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "client/objects/digest.h"
#include "client/objects/temporary_file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::pack {
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::uint64_t kAlignment = 32;  // of tensors, where general.alignment is absent

// The types of values.
constexpr std::uint32_t kUint32 = 4;
constexpr std::uint32_t kInt32 = 5;
constexpr std::uint32_t kFloat32 = 6;
constexpr std::uint32_t kBool = 7;
constexpr std::uint32_t kString = 8;
constexpr std::uint32_t kArray = 9;

/// Little-endian, as every machine that teqd is built for.
template <typename Value>
void Append(std::string& bytes, Value value) {
  char raw[sizeof(Value)];
  std::memcpy(raw, &value, sizeof(Value));
  bytes.append(raw, sizeof(Value));
}

void AppendText(std::string& bytes, std::string_view text) {
  Append<std::uint64_t>(bytes, text.size());
  bytes += text;
}

std::uint64_t Padding(std::uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

std::uint64_t ByteSize(const GgufTensor& tensor) {
  std::int64_t values = 1;
  for (const std::int64_t extent : tensor.shape) values *= extent;
  const GgufBlock block = BlockOf(tensor.type);
  return static_cast<std::uint64_t>(values / block.values * block.bytes);
}

std::string Header(const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors) {
  std::string header = "GGUF";
  Append<std::uint32_t>(header, kVersion);
  Append<std::uint64_t>(header, tensors.size());
  Append<std::uint64_t>(header, metadata.count());
  header += metadata.bytes();
  std::uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    AppendText(header, tensor.name);
    Append<std::uint32_t>(header, static_cast<std::uint32_t>(tensor.shape.size()));
    // The innermost extent comes first.
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) {
      Append<std::uint64_t>(header, static_cast<std::uint64_t>(*extent));
    }
    Append<std::uint32_t>(header, static_cast<std::uint32_t>(tensor.type));
    Append<std::uint64_t>(header, offset);
    const std::uint64_t size = ByteSize(tensor);
    offset += size + Padding(size);
  }
  header.append(Padding(header.size()), '\0');
  return header;
}

/// Bytes one after the other, and their digest.
class DigestedFile {
 public:
  explicit DigestedFile(objects::TemporaryFile file) : file_(std::move(file)) {}

  absl::Status Append(std::string_view bytes) {
    digest_.Add(bytes);
    const absl::Status status = file_.WriteAt(size_, bytes);
    size_ += bytes.size();
    return status;
  }

  absl::StatusOr<std::string> Finish() {
    TEQ_RETURN_IF_ERROR(file_.Commit(objects::IfExists::kReplace));
    return digest_.Hex();
  }

 private:
  objects::TemporaryFile file_;
  std::uint64_t size_ = 0;
  objects::Sha256Digest digest_;
};

absl::Status WriteTensor(const GgufTensor& tensor, DigestedFile& file) {
  TEQ_ASSIGN_OR_RETURN(const torch::Tensor blocks, tensor.blocks());
  const torch::Tensor bytes = blocks.to(torch::kCPU).contiguous();
  const std::uint64_t size = ByteSize(tensor);
  if (bytes.nbytes() != size) {
    return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                 fmt::format("tensor {} has {} bytes where its shape needs {}", tensor.name,
                             bytes.nbytes(), size));
  }
  TEQ_RETURN_IF_ERROR(file.Append({static_cast<const char*>(bytes.data_ptr()), size}));
  return file.Append(std::string(Padding(size), '\0'));
}

}  // namespace

GgufBlock BlockOf(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return {1, 4};
    case GgufType::kF16:
    case GgufType::kBF16:
      return {1, 2};
    case GgufType::kQ4_0:
      return {32, 18};
    case GgufType::kQ4_1:
      return {32, 20};
    case GgufType::kQ8_0:
      return {32, 34};
    case GgufType::kTq1_0:
      return {256, 54};
    case GgufType::kTq2_0:
      return {256, 66};
  }
  return {};
}

void GgufMetadata::AddKey(std::string_view key, std::uint32_t type) {
  AppendText(bytes_, key);
  Append(bytes_, type);
  ++count_;
}

void GgufMetadata::AddArray(std::string_view key, std::uint32_t type, std::size_t count) {
  AddKey(key, kArray);
  Append(bytes_, type);
  Append<std::uint64_t>(bytes_, count);
}

void GgufMetadata::AddText(std::string_view key, std::string_view value) {
  AddKey(key, kString);
  AppendText(bytes_, value);
}

void GgufMetadata::AddNumber(std::string_view key, std::int64_t value) {
  AddKey(key, kUint32);
  Append(bytes_, static_cast<std::uint32_t>(value));
}

void GgufMetadata::AddReal(std::string_view key, double value) {
  AddKey(key, kFloat32);
  Append(bytes_, static_cast<float>(value));
}

void GgufMetadata::AddFlag(std::string_view key, bool value) {
  AddKey(key, kBool);
  bytes_ += value ? '\1' : '\0';
}

void GgufMetadata::AddTexts(std::string_view key, const std::vector<std::string>& values) {
  AddArray(key, kString, values.size());
  for (const std::string& value : values) AppendText(bytes_, value);
}

void GgufMetadata::AddNumbers(std::string_view key, const std::vector<std::int32_t>& values) {
  AddArray(key, kInt32, values.size());
  for (const std::int32_t value : values) Append(bytes_, value);
}

void GgufMetadata::AddReals(std::string_view key, const std::vector<float>& values) {
  AddArray(key, kFloat32, values.size());
  for (const float value : values) Append(bytes_, value);
}

absl::StatusOr<std::string> WriteGguf(const std::filesystem::path& file,
                                      const GgufMetadata& metadata,
                                      const std::vector<GgufTensor>& tensors) {
  TEQ_ASSIGN_OR_RETURN(objects::TemporaryFile temporary, objects::TemporaryFile::Beside(file));
  DigestedFile unfinished(std::move(temporary));
  TEQ_RETURN_IF_ERROR(unfinished.Append(Header(metadata, tensors)));
  for (const GgufTensor& tensor : tensors) {
    TEQ_RETURN_IF_ERROR(
        WithContext(WriteTensor(tensor, unfinished), fmt::format("{}", file.string())));
  }
  return unfinished.Finish();
}

}  // namespace teq::pack
