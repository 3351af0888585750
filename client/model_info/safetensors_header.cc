#include "client/model_info/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "client/model_info/model_files.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

// The limit of the safetensors reference implementation.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxRank = 16;

struct DTypeEntry {
  DType dtype;
  std::string_view name;
  std::int64_t size;
};
constexpr std::array<DTypeEntry, 10> kDTypes = {{{DType::kF32, "F32", 4},
                                                 {DType::kF16, "F16", 2},
                                                 {DType::kBF16, "BF16", 2},
                                                 {DType::kI32, "I32", 4},
                                                 {DType::kI64, "I64", 8},
                                                 {DType::kI16, "I16", 2},
                                                 {DType::kI8, "I8", 1},
                                                 {DType::kU8, "U8", 1},
                                                 {DType::kBool, "BOOL", 1},
                                                 {DType::kF64, "F64", 8}}};

const DTypeEntry& Entry(DType dtype) {
  return *std::ranges::find(kDTypes, dtype, &DTypeEntry::dtype);
}

absl::Status Invalid(const std::filesystem::path& file, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
               fmt::format("{}: {}", file.string(), what));
}

absl::Status NotFound(const std::filesystem::path& path, std::string_view what) {
  return Error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
               fmt::format("{}: {}", path.string(), what));
}

// `count` bytes from `offset`, or nothing where the file has fewer. Nothing is buffered: what comes
// later may not be there yet.
std::optional<std::string> ReadBytes(const std::filesystem::path& file, std::uint64_t offset,
                                     std::uint64_t count) {
  std::ifstream stream(file, std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(offset));
  std::string bytes(count, '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(count));
  if (static_cast<std::uint64_t>(stream.gcount()) != count) return std::nullopt;
  return bytes;
}

// Reads a header as it is parsed, so that a hostile one is refused before it takes memory: nothing
// but the format's own nesting is followed, and no list grows beyond what the format allows.
class HeaderSax {
 public:
  using Json = nlohmann::json;

  bool null() { return Scalar("null"); }
  bool boolean(bool /*value*/) { return Scalar("a boolean"); }
  bool number_float(Json::number_float_t /*value*/, const Json::string_t& text) {
    return Scalar(text);
  }
  bool number_integer(Json::number_integer_t value) { return Scalar(fmt::format("{}", value)); }
  bool number_unsigned(Json::number_unsigned_t value) {
    if (depth_ != 3) return Scalar(fmt::format("{}", value));
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return Fail(
          fmt::format("{} of tensor {} holds {}, which is too large", field_, tensor_.name, value));
    }
    if (list_.size() == kMaxRank) {
      return Fail(
          fmt::format("{} of tensor {} has more than {} numbers", field_, tensor_.name, kMaxRank));
    }
    list_.push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool string(Json::string_t& value) {
    if (in_metadata_ && depth_ == 2) return true;
    if (depth_ != 2 || field_ != "dtype") return Scalar(fmt::format("\"{}\"", value));
    const auto* entry = std::ranges::find(kDTypes, value, &DTypeEntry::name);
    if (entry == kDTypes.end()) {
      std::string known;
      for (const DTypeEntry& each : kDTypes) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
      }
      return Fail(fmt::format("dtype {} of tensor {} is not supported; supported: {}", value,
                              tensor_.name, known));
    }
    tensor_.dtype = entry->dtype;
    return true;
  }
  bool binary(Json::binary_t& /*value*/) { return Scalar("binary data"); }

  bool start_object(std::size_t /*elements*/) {
    if (depth_ >= 2) return Fail(fmt::format("an object inside tensor {}", tensor_.name));
    ++depth_;
    return true;
  }
  bool key(Json::string_t& name) {
    if (depth_ == 1) return StartTensor(name);
    if (in_metadata_) return true;
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return Fail(fmt::format("tensor {} has the unknown field \"{}\"", tensor_.name, name));
    }
    if (!fields_.insert(name).second) {
      return Fail(fmt::format("tensor {} has two fields {}", tensor_.name, name));
    }
    field_ = name;
    return true;
  }
  bool end_object() {
    --depth_;
    return depth_ != 1 || in_metadata_ || FinishTensor();
  }
  bool start_array(std::size_t /*elements*/) {
    if (depth_ != 2 || in_metadata_ || field_ == "dtype") return Scalar("a list");
    ++depth_;
    list_.clear();
    return true;
  }
  bool end_array() {
    --depth_;
    (field_ == "shape" ? tensor_.shape : offsets_) = list_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const Json::exception& /*error*/) {
    return Fail(fmt::format("the header is not JSON, at its byte {}", position));
  }

  [[nodiscard]] const std::string& error() const { return error_; }
  // Tensors with offsets counted from the start of the data.
  std::map<std::string, TensorInfo>& tensors() { return tensors_; }

 private:
  bool Fail(std::string what) {
    if (error_.empty()) error_ = std::move(what);
    return false;
  }

  // A value where the format has no such value.
  bool Scalar(std::string_view value) {
    if (depth_ == 0) return Fail(fmt::format("the header is {}, not a JSON object", value));
    if (in_metadata_)
      return Fail(fmt::format("__metadata__ holds {}; it maps text to text", value));
    if (depth_ == 1)
      return Fail(fmt::format("tensor {} is {}, not an object", tensor_.name, value));
    return Fail(fmt::format("{} of tensor {} is or holds {}", field_, tensor_.name, value));
  }

  bool StartTensor(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    tensor_ = TensorInfo{.name = name};
    fields_.clear();
    offsets_.clear();
    if (tensors_.contains(name)) return Fail(fmt::format("two tensors are named {}", name));
    return true;
  }

  bool FinishTensor() {
    if (fields_.size() != 3) {
      return Fail(
          fmt::format("tensor {} needs the fields dtype, shape and data_offsets", tensor_.name));
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      return Fail(
          fmt::format("data_offsets of tensor {} are not a start and an end", tensor_.name));
    }
    tensor_.offset = static_cast<std::uint64_t>(offsets_[0]);
    tensor_.bytes = static_cast<std::uint64_t>(offsets_[1] - offsets_[0]);
    tensors_.emplace(tensor_.name, std::move(tensor_));
    return true;
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  TensorInfo tensor_;
  std::set<std::string> fields_;
  std::string field_;
  std::vector<std::int64_t> list_;
  std::vector<std::int64_t> offsets_;
  std::map<std::string, TensorInfo> tensors_;
  std::string error_;
};

absl::Status CheckShape(const TensorInfo& tensor) {
  std::int64_t bytes = ByteSize(tensor.dtype);
  bool empty = false;
  for (const std::int64_t dimension : tensor.shape) {
    empty = empty || dimension == 0;
    // An empty tensor's other dimensions must not overflow either: its strides are their products.
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(dimension, 1), &bytes)) {
      return Invalid(tensor.file,
                     fmt::format("the shape of tensor {} has too many elements", tensor.name));
    }
  }
  if (empty) bytes = 0;
  if (static_cast<std::uint64_t>(bytes) != tensor.bytes) {
    return Invalid(tensor.file,
                   fmt::format("tensor {}: {} and its shape need {} bytes, data_offsets hold {}",
                               tensor.name, Name(tensor.dtype), bytes, tensor.bytes));
  }
  return absl::OkStatus();
}

// Every byte of the data belongs to one tensor.
absl::Status CheckRanges(const std::filesystem::path& file,
                         const std::map<std::string, TensorInfo>& tensors, std::uint64_t size) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) order.push_back(&tensor);
  std::ranges::sort(
      order, {}, [](const TensorInfo* tensor) { return std::pair(tensor->offset, tensor->bytes); });
  std::uint64_t end = 0;
  std::string_view previous = "the header";
  for (const TensorInfo* tensor : order) {
    if (tensor->offset + tensor->bytes > size) {
      return Invalid(file, fmt::format("tensor {} ends at byte {} of the data, which has {}; the "
                                       "file is cut short or its header is wrong",
                                       tensor->name, tensor->offset + tensor->bytes, size));
    }
    if (tensor->offset < end) {
      return Invalid(file, fmt::format("tensors {} and {} overlap", previous, tensor->name));
    }
    if (tensor->offset > end) {
      return Invalid(file, fmt::format("{} bytes between {} and tensor {} belong to no tensor",
                                       tensor->offset - end, previous, tensor->name));
    }
    end = tensor->offset + tensor->bytes;
    previous = tensor->name;
  }
  if (end != size) {
    return Invalid(file, fmt::format("{} bytes after the last tensor belong to none", size - end));
  }
  return absl::OkStatus();
}

struct RawHeader {
  std::string json;
  std::uint64_t data_offset = 0;
  std::uint64_t data_bytes = 0;
};

absl::StatusOr<RawHeader> ReadRawHeader(const std::filesystem::path& file, FileSource& source) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status)) return NotFound(file, "no such file");
  if (!std::filesystem::is_regular_file(status)) return Invalid(file, "not a regular file");
  const std::uint64_t size = std::filesystem::file_size(file, error);
  if (error) return NotFound(file, "cannot be read; check its permissions");
  TEQ_RETURN_IF_ERROR(source.EnsureRange(file, 0, 8));
  if (!std::ifstream(file, std::ios::binary)) {
    return NotFound(file, "cannot be read; check its permissions");
  }
  const auto length_bytes = ReadBytes(file, 0, 8);
  if (!length_bytes) {
    return Invalid(file, fmt::format("has {} bytes; a safetensors file has at least 8", size));
  }
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t length = 0;
  std::memcpy(&length, length_bytes->data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return Invalid(file, fmt::format("the header's length is {}, above the limit of {}; this is "
                                     "no safetensors file",
                                     length, kMaxHeaderBytes));
  }
  if (length > size - 8) {
    return Invalid(file, fmt::format("the header's length is {}, but only {} bytes follow; the "
                                     "file is cut short",
                                     length, size - 8));
  }
  TEQ_RETURN_IF_ERROR(source.EnsureRange(file, 8, length));
  auto json = ReadBytes(file, 8, length);
  if (!json) return Invalid(file, "cannot be read to the end of its header");
  return RawHeader{std::move(*json), 8 + length, size - 8 - length};
}

// The relative paths of the shards and the tensors that the index puts there.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(
    const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::file_size(file, error) > kMaxHeaderBytes || error) {
    return Invalid(file, fmt::format("cannot be read, or is above {} bytes", kMaxHeaderBytes));
  }
  std::ifstream stream(file, std::ios::binary);
  constexpr int kMaxDepth = 8;
  bool too_deep = false;
  const auto guard = [&too_deep](int depth, nlohmann::json::parse_event_t /*event*/,
                                 nlohmann::json& /*parsed*/) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  const auto json = nlohmann::json::parse(stream, guard, false);
  if (json.is_discarded() || too_deep) {
    return Invalid(file, too_deep ? "is nested too deeply" : "is not JSON");
  }
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return Invalid(file, "has no object weight_map, from tensor names to file names");
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) {
      return Invalid(file, fmt::format("weight_map of {} is not a file name", tensor));
    }
    weight_map[tensor] = shard.get<std::string>();
  }
  if (weight_map.empty()) return Invalid(file, "weight_map is empty");
  return weight_map;
}

absl::Status CheckShardPath(const std::filesystem::path& index_file, const std::string& shard) {
  const std::filesystem::path path = shard;
  const bool leaves = path.is_absolute() || std::ranges::find(path, "..") != path.end();
  if (shard.empty() || leaves || shard.find('\0') != std::string::npos) {
    return Invalid(index_file,
                   fmt::format("weight_map names the file \"{}\"; name files inside the "
                               "checkpoint's directory",
                               shard));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ShardNames(
    const std::filesystem::path& index_file, const std::map<std::string, std::string>& weight_map) {
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) {
    TEQ_RETURN_IF_ERROR(CheckShardPath(index_file, shard));
    shards.insert(shard);
  }
  return std::vector<std::string>(shards.begin(), shards.end());
}

absl::Status AddShard(const std::filesystem::path& file, FileSource& source,
                      CheckpointIndex& index) {
  TEQ_ASSIGN_OR_RETURN(auto tensors, ReadSafetensorsHeader(file, source));
  for (auto& [name, tensor] : tensors) {
    const auto [at, added] = index.tensors.emplace(name, tensor);
    if (!added) {
      return Invalid(file, fmt::format("tensor {} is also in {}; a tensor may be in one file only",
                                       name, at->second.file.filename().string()));
    }
  }
  index.files.push_back(file);
  return absl::OkStatus();
}

absl::Status NoSafetensors(const std::filesystem::path& directory) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const auto extension = entry->path().extension();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      return PickledWeights(entry->path());
    }
  }
  return NotFound(directory,
                  fmt::format("holds neither {} nor {}", kWeightsFile, kWeightsIndexFile));
}

}  // namespace

std::string_view Name(DType dtype) { return Entry(dtype).name; }

std::int64_t ByteSize(DType dtype) { return Entry(dtype).size; }

absl::Status PickledWeights(const std::filesystem::path& file) {
  return Invalid(file,
                 "pickled weights can run code and are not read; convert them to safetensors: in "
                 "Python, transformers.AutoModelForCausalLM.from_pretrained(directory)"
                 ".save_pretrained(other_directory, safe_serialization=True)");
}

absl::StatusOr<std::vector<std::string>> ReadShardNames(const std::filesystem::path& index_file) {
  TEQ_ASSIGN_OR_RETURN(const auto weight_map, ReadWeightMap(index_file));
  return ShardNames(index_file, weight_map);
}

absl::StatusOr<std::map<std::string, TensorInfo>> ReadSafetensorsHeader(
    const std::filesystem::path& file) {
  WholeFiles source;
  return ReadSafetensorsHeader(file, source);
}

absl::StatusOr<std::map<std::string, TensorInfo>> ReadSafetensorsHeader(
    const std::filesystem::path& file, FileSource& source) {
  TEQ_ASSIGN_OR_RETURN(const RawHeader raw, ReadRawHeader(file, source));
  HeaderSax sax;
  if (!nlohmann::json::sax_parse(raw.json, &sax)) return Invalid(file, sax.error());
  for (auto& [name, tensor] : sax.tensors()) {
    tensor.file = file;
    TEQ_RETURN_IF_ERROR(CheckShape(tensor));
  }
  TEQ_RETURN_IF_ERROR(CheckRanges(file, sax.tensors(), raw.data_bytes));
  for (auto& [name, tensor] : sax.tensors()) tensor.offset += raw.data_offset;
  return std::move(sax.tensors());
}

absl::StatusOr<CheckpointIndex> ReadCheckpointIndex(const std::filesystem::path& directory) {
  WholeFiles source;
  return ReadCheckpointIndex(directory, source);
}

absl::StatusOr<CheckpointIndex> ReadCheckpointIndex(const std::filesystem::path& directory,
                                                    FileSource& source) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return NotFound(directory, "no such directory; give the directory of a checkpoint");
  }
  CheckpointIndex index{.directory = directory};
  if (std::filesystem::exists(directory / kWeightsFile, error)) {
    TEQ_RETURN_IF_ERROR(AddShard(directory / kWeightsFile, source, index));
    return index;
  }
  const auto index_file = directory / kWeightsIndexFile;
  if (!std::filesystem::exists(index_file, error)) return NoSafetensors(directory);
  TEQ_ASSIGN_OR_RETURN(const auto weight_map, ReadWeightMap(index_file));
  TEQ_ASSIGN_OR_RETURN(const auto shards, ShardNames(index_file, weight_map));
  for (const std::string& shard : shards) {
    if (!std::filesystem::exists(directory / shard, error)) {
      return Invalid(index_file, fmt::format("names the file {}, which is missing", shard));
    }
    TEQ_RETURN_IF_ERROR(AddShard(directory / shard, source, index));
  }
  for (const auto& [tensor, shard] : weight_map) {
    const auto found = index.tensors.find(tensor);
    if (found == index.tensors.end() || found->second.file != directory / shard) {
      return Invalid(index_file,
                     fmt::format("says that tensor {} is in {}; it is not", tensor, shard));
    }
  }
  return index;
}

}  // namespace teq::model_info
