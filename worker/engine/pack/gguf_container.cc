#include "worker/engine/pack/gguf_container.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "client/objects/file.h"
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

/// A file that has its name only once it is complete.
class UnfinishedFile {
 public:
  explicit UnfinishedFile(std::filesystem::path file)
      : file_(std::move(file)), temporary_(file_.string() + ".partial") {
    descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor_ < 0) error_ = errno;
  }
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;
  ~UnfinishedFile() {
    if (descriptor_ < 0) return;
    close(descriptor_);
    unlink(temporary_.c_str());
  }

  [[nodiscard]] absl::Status Write(const void* data, std::size_t size) {
    if (descriptor_ < 0) return objects::WriteError(error_, file_, size);
    const auto* bytes = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written = write(descriptor_, bytes, size);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return objects::WriteError(errno, file_, size);
      bytes += written;
      size -= static_cast<std::size_t>(written);
    }
    return absl::OkStatus();
  }

  [[nodiscard]] absl::Status Finish() {
    if (fsync(descriptor_) != 0 || rename(temporary_.c_str(), file_.c_str()) != 0) {
      return objects::WriteError(errno, file_, 0);
    }
    const int result = close(descriptor_);
    descriptor_ = -1;
    if (result != 0) return objects::WriteError(errno, file_, 0);
    return objects::Sync(file_.parent_path());
  }

 private:
  std::filesystem::path file_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  int error_ = 0;
};

absl::Status WriteTensor(const GgufTensor& tensor, UnfinishedFile& file) {
  TEQ_ASSIGN_OR_RETURN(const torch::Tensor blocks, tensor.blocks());
  const torch::Tensor bytes = blocks.to(torch::kCPU).contiguous();
  const std::uint64_t size = ByteSize(tensor);
  if (bytes.nbytes() != size) {
    return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                 fmt::format("tensor {} has {} bytes where its shape needs {}", tensor.name,
                             bytes.nbytes(), size));
  }
  TEQ_RETURN_IF_ERROR(file.Write(bytes.data_ptr(), size));
  const std::string padding(Padding(size), '\0');
  return file.Write(padding.data(), padding.size());
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

absl::Status WriteGguf(const std::filesystem::path& file, const GgufMetadata& metadata,
                       const std::vector<GgufTensor>& tensors) {
  UnfinishedFile unfinished(file);
  const std::string header = Header(metadata, tensors);
  TEQ_RETURN_IF_ERROR(unfinished.Write(header.data(), header.size()));
  for (const GgufTensor& tensor : tensors) {
    TEQ_RETURN_IF_ERROR(
        WithContext(WriteTensor(tensor, unfinished), fmt::format("{}", file.string())));
  }
  return unfinished.Finish();
}

}  // namespace teq::pack
