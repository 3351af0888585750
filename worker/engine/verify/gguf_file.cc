// Written from the specification of GGUF (docs/gguf.md of the ggml project).
#include "worker/engine/verify/gguf_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::verify {
namespace {

using Json = nlohmann::json;

constexpr std::uint32_t kTextType = 8;
constexpr std::uint32_t kArrayType = 9;
constexpr std::uint64_t kMostExtents = 4;
// Tensors of one layer are far smaller; a product below it cannot overflow.
constexpr std::uint64_t kMostValues = std::uint64_t{1} << 44;

absl::Status Bad(std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED", message);
}

/// Values and bytes of a block, by ggml's number of its type.
struct Block {
  std::uint64_t values;
  std::uint64_t bytes;
};
std::optional<Block> FindBlock(std::uint32_t type) {
  switch (type) {
    case 0:  // F32
      return Block{1, 4};
    case 1:   // F16
    case 30:  // BF16
      return Block{1, 2};
    case 2:  // Q4_0: scale, 32 nibbles
      return Block{32, 2 + 16};
    case 3:  // Q4_1: scale, offset, 32 nibbles
      return Block{32, 2 + 2 + 16};
    case 8:  // Q8_0: scale, 32 bytes
      return Block{32, 2 + 32};
    case 34:  // TQ1_0: 48 bytes of five trits, 4 of four, scale
      return Block{256, 48 + 4 + 2};
    case 35:  // TQ2_0: 64 bytes of four digits, scale
      return Block{256, 64 + 2};
    default:
      return std::nullopt;
  }
}

/// Walks over bytes that may be anything.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : bytes_(bytes) {}

  [[nodiscard]] std::uint64_t at() const { return at_; }
  [[nodiscard]] std::uint64_t left() const { return bytes_.size() - at_; }

  absl::StatusOr<std::string_view> Take(std::uint64_t count) {
    if (count > left()) {
      return Bad(fmt::format("ends at byte {}, within {} bytes that begin at {}", bytes_.size(),
                             count, at_));
    }
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }

  template <typename Number>
  absl::StatusOr<Number> Read() {
    TEQ_ASSIGN_OR_RETURN(const std::string_view raw, Take(sizeof(Number)));
    Number number;
    std::memcpy(&number, raw.data(), sizeof(Number));
    return number;
  }

  absl::StatusOr<std::string> Text() {
    TEQ_ASSIGN_OR_RETURN(const auto size, Read<std::uint64_t>());
    TEQ_ASSIGN_OR_RETURN(const std::string_view text, Take(size));
    return std::string(text);
  }

  absl::StatusOr<Json> Value(std::uint32_t type) {
    switch (type) {
      case 0:
        return As<std::uint8_t>();
      case 1:
        return As<std::int8_t>();
      case 2:
        return As<std::uint16_t>();
      case 3:
        return As<std::int16_t>();
      case 4:
        return As<std::uint32_t>();
      case 5:
        return As<std::int32_t>();
      case 6:
        return As<float>();
      case 7:
        return Boolean();
      case kTextType: {
        TEQ_ASSIGN_OR_RETURN(std::string text, Text());
        return Json(std::move(text));
      }
      case kArrayType:
        return Array();
      case 10:
        return As<std::uint64_t>();
      case 11:
        return As<std::int64_t>();
      case 12:
        return As<double>();
      default:
        return Bad(
            fmt::format("has a value of type {} before byte {}; types are 0 to 12", type, at_));
    }
  }

 private:
  template <typename Number>
  absl::StatusOr<Json> As() {
    TEQ_ASSIGN_OR_RETURN(const Number number, Read<Number>());
    return Json(number);
  }

  absl::StatusOr<Json> Boolean() {
    TEQ_ASSIGN_OR_RETURN(const auto byte, Read<std::uint8_t>());
    if (byte > 1) return Bad(fmt::format("has a bool of {} before byte {}", byte, at_));
    return Json(byte == 1);
  }

  absl::StatusOr<Json> Array() {
    TEQ_ASSIGN_OR_RETURN(const auto type, Read<std::uint32_t>());
    TEQ_ASSIGN_OR_RETURN(const auto count, Read<std::uint64_t>());
    if (type == kArrayType) return Bad("has an array of arrays");
    if (count > left()) return Bad(fmt::format("has an array of {} values, too many", count));
    Json array = Json::array();
    for (std::uint64_t i = 0; i < count; ++i) {
      TEQ_ASSIGN_OR_RETURN(Json value, Value(type));
      array.push_back(std::move(value));
    }
    return array;
  }

  std::string_view bytes_;
  std::uint64_t at_ = 0;
};

absl::StatusOr<std::map<std::string, Json>> ReadValues(Cursor& cursor, std::uint64_t count) {
  std::map<std::string, Json> values;
  for (std::uint64_t i = 0; i < count; ++i) {
    TEQ_ASSIGN_OR_RETURN(std::string key, cursor.Text());
    TEQ_ASSIGN_OR_RETURN(const auto type, cursor.Read<std::uint32_t>());
    TEQ_ASSIGN_OR_RETURN(Json value, cursor.Value(type));
    if (values.contains(key)) return Bad(fmt::format("has the key {} twice", key));
    values.emplace(std::move(key), std::move(value));
  }
  return values;
}

struct Entry {
  std::string name;
  GgufFile::Tensor tensor;
  std::uint64_t offset = 0;
};

absl::StatusOr<Entry> ReadEntry(Cursor& cursor) {
  Entry entry;
  TEQ_ASSIGN_OR_RETURN(entry.name, cursor.Text());
  const auto bad = [&](std::string_view what) {
    return Bad(fmt::format("tensor {} {}", entry.name, what));
  };
  TEQ_ASSIGN_OR_RETURN(const auto extents, cursor.Read<std::uint32_t>());
  if (extents < 1 || extents > kMostExtents) return bad(fmt::format("has {} extents", extents));
  std::uint64_t values = 1;
  for (std::uint32_t i = 0; i < extents; ++i) {
    TEQ_ASSIGN_OR_RETURN(const auto extent, cursor.Read<std::uint64_t>());
    if (extent < 1 || extent > kMostValues / values) {
      return bad(fmt::format("has an extent of {}", extent));
    }
    values *= extent;
    entry.tensor.shape.insert(entry.tensor.shape.begin(), static_cast<std::int64_t>(extent));
  }
  TEQ_ASSIGN_OR_RETURN(entry.tensor.type, cursor.Read<std::uint32_t>());
  TEQ_ASSIGN_OR_RETURN(entry.offset, cursor.Read<std::uint64_t>());
  const std::optional<Block> block = FindBlock(entry.tensor.type);
  if (!block) return bad(fmt::format("has type {}, which is none of ours", entry.tensor.type));
  const auto row = static_cast<std::uint64_t>(entry.tensor.shape.back());
  if (row % block->values != 0) {
    return bad(fmt::format("has rows of {}, which do not fill blocks of {}", row, block->values));
  }
  entry.tensor.bytes = values / block->values * block->bytes;
  return entry;
}

absl::StatusOr<std::uint64_t> Alignment(const std::map<std::string, Json>& values) {
  const auto found = values.find("general.alignment");
  if (found == values.end()) return 32;
  constexpr std::uint64_t kMost = 1 << 20;
  const Json& value = found->second;
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < 8 ||
      value.get<std::uint64_t>() > kMost ||
      (value.get<std::uint64_t>() & (value.get<std::uint64_t>() - 1)) != 0) {
    return Bad(fmt::format("general.alignment is {}; expected a power of two", value.dump()));
  }
  return value.get<std::uint64_t>();
}

std::uint64_t RoundUp(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/// Puts every tensor into `data`, the bytes behind the header.
absl::Status Place(std::vector<Entry>& entries, std::string_view data, std::uint64_t alignment) {
  std::vector<Entry*> order;
  for (Entry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const Entry* a, const Entry* b) { return a->offset < b->offset; });
  std::uint64_t end = 0;
  for (Entry* entry : order) {
    if (entry->offset != RoundUp(end, alignment)) {
      return Bad(
          fmt::format("tensor {} begins at {} of the data; expected {}, the first multiple "
                      "of {} behind the tensor before it",
                      entry->name, entry->offset, RoundUp(end, alignment), alignment));
    }
    if (entry->offset > data.size() || entry->tensor.bytes > data.size() - entry->offset) {
      return Bad(fmt::format("tensor {} of {} bytes ends behind the file", entry->name,
                             entry->tensor.bytes));
    }
    entry->tensor.data = reinterpret_cast<const std::uint8_t*>(data.data()) + entry->offset;
    end = entry->offset + entry->tensor.bytes;
  }
  if (data.size() > RoundUp(end, alignment)) {
    return Bad(fmt::format("has {} bytes behind its last tensor", data.size() - end));
  }
  return absl::OkStatus();
}

}  // namespace

struct GgufFile::Mapping {
  void* data = MAP_FAILED;
  std::size_t size = 0;

  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (data != MAP_FAILED) munmap(data, size);
  }

  static absl::StatusOr<std::shared_ptr<const Mapping>> Open(const std::filesystem::path& file) {
    auto mapping = std::make_shared<Mapping>();
    const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (descriptor >= 0 && fstat(descriptor, &status) == 0 && status.st_size > 0) {
      mapping->size = static_cast<std::size_t>(status.st_size);
      mapping->data = mmap(nullptr, mapping->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    if (descriptor >= 0) close(descriptor);
    if (mapping->data == MAP_FAILED) return Bad("is missing, empty or cannot be read");
    return mapping;
  }
};

absl::StatusOr<GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  GgufFile file;
  const auto read = [&]() -> absl::Status {
    TEQ_ASSIGN_OR_RETURN(file.mapping_, Mapping::Open(path));
    const std::string_view bytes(static_cast<const char*>(file.mapping_->data),
                                 file.mapping_->size);
    Cursor cursor(bytes);
    TEQ_ASSIGN_OR_RETURN(const std::string_view magic, cursor.Take(4));
    TEQ_ASSIGN_OR_RETURN(const auto version, cursor.Read<std::uint32_t>());
    if (magic != "GGUF" || version != 3) return Bad("is no GGUF file of version 3");
    TEQ_ASSIGN_OR_RETURN(const auto tensor_count, cursor.Read<std::uint64_t>());
    TEQ_ASSIGN_OR_RETURN(const auto value_count, cursor.Read<std::uint64_t>());
    TEQ_ASSIGN_OR_RETURN(file.values_, ReadValues(cursor, value_count));
    std::vector<Entry> entries;
    for (std::uint64_t i = 0; i < tensor_count; ++i) {
      TEQ_ASSIGN_OR_RETURN(Entry entry, ReadEntry(cursor));
      entries.push_back(std::move(entry));
    }
    TEQ_ASSIGN_OR_RETURN(const std::uint64_t alignment, Alignment(file.values_));
    TEQ_RETURN_IF_ERROR(cursor.Take(RoundUp(cursor.at(), alignment) - cursor.at()).status());
    TEQ_RETURN_IF_ERROR(Place(entries, bytes.substr(cursor.at()), alignment));
    for (Entry& entry : entries) {
      if (!file.tensors_.emplace(entry.name, std::move(entry.tensor)).second) {
        return Bad(fmt::format("has the tensor {} twice", entry.name));
      }
    }
    return absl::OkStatus();
  };
  const absl::Status status = read();
  if (!status.ok()) return WithContext(status, path.string());
  return file;
}

}  // namespace teq::verify
