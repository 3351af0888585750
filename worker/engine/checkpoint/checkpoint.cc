#include "worker/engine/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>

#include "client/objects/digest.h"
#include "client/objects/file.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "torch/torch.h"

namespace teq::checkpoint {
namespace {

using model_info::DType;

constexpr std::pair<DType, torch::ScalarType> kTypes[] = {
    {DType::kF32, torch::kFloat32},   {DType::kF16, torch::kFloat16},
    {DType::kBF16, torch::kBFloat16}, {DType::kI32, torch::kInt32},
    {DType::kI64, torch::kInt64},     {DType::kI16, torch::kInt16},
    {DType::kI8, torch::kInt8},       {DType::kU8, torch::kUInt8},
    {DType::kBool, torch::kBool},     {DType::kF64, torch::kFloat64}};

torch::ScalarType TorchType(DType dtype) {
  for (const auto& [ours, theirs] : kTypes) {
    if (ours == dtype) return theirs;
  }
  return torch::kUInt8;
}

std::optional<DType> StoredType(torch::ScalarType type) {
  for (const auto& [ours, theirs] : kTypes) {
    if (theirs == type) return ours;
  }
  return std::nullopt;
}

std::string ErrnoText(int code) { return std::error_code(code, std::generic_category()).message(); }

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  [[nodiscard]] int get() const { return descriptor_; }
  /// Closes it; the errno of a delayed write error, or 0.
  [[nodiscard]] int Close() {
    const int result = close(descriptor_) == 0 ? 0 : errno;
    descriptor_ = -1;
    return result;
  }

 private:
  int descriptor_;
};

/// A whole file, mapped for reading.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::filesystem::path& file) {
    const FileDescriptor descriptor(open(file.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (descriptor.get() < 0 || fstat(descriptor.get(), &status) != 0) {
      return Unreadable(file, errno);
    }
    auto mapped = std::unique_ptr<MappedFile>(new MappedFile);
    mapped->size_ = static_cast<std::size_t>(status.st_size);
    // PROT_READ alone: a write to a weight is a bug, and must not pass silently. Shared, so that
    // bytes which arrive later are seen.
    void* address = mmap(nullptr, mapped->size_, PROT_READ, MAP_SHARED, descriptor.get(), 0);
    if (address == MAP_FAILED) return Unreadable(file, errno);
    mapped->data_ = static_cast<std::byte*>(address);
    return mapped;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  MappedFile() = default;

  static absl::Status Unreadable(const std::filesystem::path& file, int code) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
                 fmt::format("{}: cannot be mapped: {}", file.string(), ErrnoText(code)));
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The length field and the JSON, padded so that the data starts at a multiple of 8 bytes.
absl::StatusOr<std::string> Header(const std::filesystem::path& file,
                                   const std::vector<TensorEntry>& entries) {
  nlohmann::ordered_json json = {{"__metadata__", {{"format", "pt"}}}};
  // Appended, as to look for each name among all before it takes long for a mixture's many tensors.
  auto& members = json.get_ref<nlohmann::ordered_json::object_t&>();
  std::set<std::string_view> names = {"__metadata__"};
  std::uint64_t offset = 0;
  for (const TensorEntry& entry : entries) {
    const auto dtype = StoredType(entry.type);
    if (!dtype || !names.insert(entry.name).second) {
      return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                   fmt::format("{}: tensor {} cannot be stored: its name is taken, or safetensors "
                               "has no type for it",
                               file.string(), entry.name));
    }
    const std::uint64_t bytes = ByteSizeOf(entry);
    members.emplace_back(entry.name,
                         nlohmann::ordered_json{{"dtype", model_info::Name(*dtype)},
                                                {"shape", entry.shape},
                                                {"data_offsets", {offset, offset + bytes}}});
    offset += bytes;
  }
  std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  std::string header(sizeof(length), '\0');
  std::memcpy(header.data(), &length, sizeof(length));
  return header + text;
}

}  // namespace

struct Checkpoint::Mapping {
  std::shared_ptr<model_info::FileSource> source;
  model_info::CheckpointIndex index;
  std::map<std::filesystem::path, std::unique_ptr<MappedFile>> files;
};

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::filesystem::path& directory) {
  return Open(directory, std::make_shared<model_info::WholeFiles>());
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::filesystem::path& directory,
                                            std::shared_ptr<model_info::FileSource> source) {
  auto mapping = std::make_shared<Mapping>();
  TEQ_ASSIGN_OR_RETURN(mapping->index, model_info::ReadCheckpointIndex(directory, *source));
  mapping->source = std::move(source);
  for (const auto& file : mapping->index.files) {
    TEQ_ASSIGN_OR_RETURN(mapping->files[file], MappedFile::Open(file));
  }
  for (const auto& [name, tensor] : mapping->index.tensors) {
    if (tensor.offset + tensor.bytes > mapping->files[tensor.file]->size()) {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
                   fmt::format("{}: became shorter while it was opened; wait until it is complete",
                               tensor.file.string()));
    }
  }
  return Checkpoint(std::move(mapping));
}

const model_info::CheckpointIndex& Checkpoint::index() const { return mapping_->index; }

bool Checkpoint::Has(const std::string& name) const {
  return mapping_->index.tensors.contains(name);
}

absl::StatusOr<torch::Tensor> Checkpoint::Read(const std::string& name) const {
  const auto found = mapping_->index.tensors.find(name);
  if (found == mapping_->index.tensors.end()) {
    return Error(absl::StatusCode::kNotFound, "INVALID_CHECKPOINT",
                 fmt::format("{}: has no tensor {}", mapping_->index.directory.string(), name));
  }
  const model_info::TensorInfo& info = found->second;
  TEQ_RETURN_IF_ERROR(mapping_->source->EnsureRange(info.file, info.offset, info.bytes));
  const auto options = torch::TensorOptions().dtype(TorchType(info.dtype));
  std::byte* data = mapping_->files.at(info.file)->data() + info.offset;
  const auto size = static_cast<std::size_t>(model_info::ByteSize(info.dtype));
  try {
    if (info.bytes > 0 && reinterpret_cast<std::uintptr_t>(data) % size == 0) {
      return torch::from_blob(
          data, info.shape, [keep = mapping_](void* /*data*/) {}, options);
    }
    // The format does not promise alignment; the processor's vector loads need it.
    torch::Tensor copy = torch::empty(info.shape, options);
    if (info.bytes > 0) std::memcpy(copy.data_ptr(), data, info.bytes);
    return copy;
  } catch (const std::exception& error) {
    return Error(absl::StatusCode::kInternal, "TENSOR_FAILED",
                 fmt::format("tensor {}: {}", name, error.what()));
  }
}

void Checkpoint::Release() const {
  for (const auto& [path, file] : mapping_->files) {
    madvise(file->data(), file->size(), MADV_DONTNEED);
  }
}

TensorEntry EntryOf(const std::string& name, const torch::Tensor& tensor) {
  return {name, tensor.scalar_type(), tensor.sizes().vec()};
}

std::uint64_t ByteSizeOf(const TensorEntry& entry) {
  std::uint64_t bytes = c10::elementSize(entry.type);
  for (const std::int64_t size : entry.shape) bytes *= static_cast<std::uint64_t>(size);
  return bytes;
}

struct SafetensorsWriter::File {
  std::filesystem::path path;
  std::vector<TensorEntry> entries;
  FileDescriptor descriptor;
  objects::Sha256Digest digest;
  std::size_t next = 0;  // entry

  absl::Status Write(std::string_view bytes) {
    digest.Add(bytes);
    while (!bytes.empty()) {
      const ssize_t written = write(descriptor.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return objects::WriteError(errno, path, bytes.size());
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return absl::OkStatus();
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<File> file) : file_(std::move(file)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::filesystem::path& file, const std::vector<TensorEntry>& entries) {
  TEQ_ASSIGN_OR_RETURN(const std::string header, Header(file, entries));
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) return objects::WriteError(errno, file, 0);
  std::unique_ptr<File> opened(new File{file, entries, FileDescriptor(descriptor)});
  TEQ_RETURN_IF_ERROR(opened->Write(header));
  return SafetensorsWriter(std::move(opened));
}

absl::Status SafetensorsWriter::Add(const torch::Tensor& tensor) {
  if (file_->next == file_->entries.size()) {
    return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                 fmt::format("{}: one tensor too many", file_->path.string()));
  }
  const TensorEntry& entry = file_->entries[file_->next++];
  try {
    const torch::Tensor dense = tensor.detach().to(torch::kCPU).contiguous();
    if (dense.scalar_type() != entry.type || dense.sizes() != torch::IntArrayRef(entry.shape)) {
      return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                   fmt::format("{}: tensor {} is not as it was announced", file_->path.string(),
                               entry.name));
    }
    if (dense.nbytes() == 0) return absl::OkStatus();
    return file_->Write({static_cast<const char*>(dense.data_ptr()), dense.nbytes()});
  } catch (const std::exception& error) {
    return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                 fmt::format("{}: tensor {}: {}", file_->path.string(), entry.name, error.what()));
  }
}

absl::StatusOr<std::string> SafetensorsWriter::Finish() {
  if (file_->next != file_->entries.size()) {
    return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
                 fmt::format("{}: tensor {} was not written", file_->path.string(),
                             file_->entries[file_->next].name));
  }
  if (const int code = file_->descriptor.Close(); code != 0) {
    return objects::WriteError(code, file_->path, 0);
  }
  return file_->digest.Hex();
}

absl::Status WriteSafetensors(const std::filesystem::path& file,
                              const std::vector<std::pair<std::string, torch::Tensor>>& tensors) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) entries.push_back(EntryOf(name, tensor));
  TEQ_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(file, entries));
  for (const auto& [name, tensor] : tensors) TEQ_RETURN_IF_ERROR(writer.Add(tensor));
  return writer.Finish().status();
}

}  // namespace teq::checkpoint
