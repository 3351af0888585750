#include "client/model_info/output_size.h"

#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include "client/model_info/layout.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/recipe.h"

namespace teq::model_info {
namespace {

using Shape = std::vector<std::int64_t>;

// What a shard of safetensors holds at most, by default.
constexpr std::int64_t kShardBytes = 5'000'000'000;
constexpr std::int64_t kGgufAlignment = 32;

std::int64_t Values(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

std::int64_t Words(std::int64_t codes, double bits) {
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(codes) * bits / 32));
}

/// A safetensors file of many tensors, or several.
class Safetensors {
 public:
  void Add(std::string_view name, std::string_view dtype, int value_bytes, const Shape& shape) {
    const std::int64_t size = value_bytes * Values(shape);
    header_ += static_cast<std::int64_t>(fmt::formatted_size(
        R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}},)", name, dtype,
        fmt::join(shape, ","), data_ % kShardBytes, data_ % kShardBytes + size));
    data_ += size;
  }

  [[nodiscard]] std::int64_t bytes() const {
    constexpr std::string_view kStart = R"({"__metadata__":{"format":"pt"},)";
    const std::int64_t shards = (data_ + kShardBytes - 1) / kShardBytes;
    const std::int64_t head = 8 + static_cast<std::int64_t>(kStart.size());
    const std::int64_t text = shards * head + header_;
    return data_ + (text + 7) / 8 * 8;
  }

 private:
  std::int64_t data_ = 0;
  std::int64_t header_ = 0;
};

/// A rounded layer's codes.
struct Codes {
  std::string_view name;
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t groups = 0;
  double bits = 0;
  bool symmetric = false;
};

Codes CodesOf(const teq::v1::Recipe& recipe, const PlannedLayer& planned) {
  const LinearLayer& layer = planned.layer;
  const bool open = BitsAreOpen(recipe, layer.name);
  return {.name = layer.name,
          .in = layer.in,
          .out = layer.out,
          .groups = planned.grid.group_size > 0 ? layer.in / planned.grid.group_size : 1,
          .bits = open ? recipe.weights().target_bits() : planned.grid.bits,
          .symmetric = planned.grid.symmetric};
}

void AddGptq(const Codes& codes, Safetensors& file) {
  const auto [name, in, out, groups, bits, symmetric] = codes;
  file.Add(fmt::format("{}.qweight", name), "I32", 4, {Words(in, bits), out});
  file.Add(fmt::format("{}.qzeros", name), "I32", 4, {groups, Words(out, bits)});
  file.Add(fmt::format("{}.scales", name), "F16", 2, {groups, out});
  file.Add(fmt::format("{}.g_idx", name), "I32", 4, {in});
}

void AddAwq(const Codes& codes, Safetensors& file) {
  const auto [name, in, out, groups, bits, symmetric] = codes;
  file.Add(fmt::format("{}.qweight", name), "I32", 4, {in, Words(out, bits)});
  file.Add(fmt::format("{}.qzeros", name), "I32", 4, {groups, Words(out, bits)});
  file.Add(fmt::format("{}.scales", name), "F16", 2, {groups, out});
}

void AddCompressedTensors(const Codes& codes, Safetensors& file) {
  const auto [name, in, out, groups, bits, symmetric] = codes;
  file.Add(fmt::format("{}.weight_packed", name), "I32", 4, {out, Words(in, bits)});
  file.Add(fmt::format("{}.weight_scale", name), "F16", 2, {out, groups});
  file.Add(fmt::format("{}.weight_shape", name), "I64", 8, {2});
  if (symmetric) return;
  file.Add(fmt::format("{}.weight_zero_point", name), "I32", 4, {Words(out, bits), groups});
}

void AddDequantized(const Codes& codes, Safetensors& file) {
  file.Add(fmt::format("{}.weight", codes.name), "F16", 2, {codes.out, codes.in});
}

using AddCodes = void (*)(const Codes& codes, Safetensors& file);

AddCodes LayoutOf(teq::v1::Format format) {
  switch (format) {
    case teq::v1::FORMAT_AWQ:
      return AddAwq;
    case teq::v1::FORMAT_COMPRESSED_TENSORS:
      return AddCompressedTensors;
    case teq::v1::FORMAT_DEQUANTIZED:
      return AddDequantized;
    default:
      return AddGptq;
  }
}

/// All tensors that are not rounded.
std::vector<ExpectedTensor> Floats(const ModelConfig& config,
                                   const std::vector<PlannedLayer>& plan) {
  std::set<std::string> rounded;
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized) rounded.insert(planned.layer.name + ".weight");
  }
  std::vector<ExpectedTensor> floats;
  for (ExpectedTensor& tensor : ExpectedTensors(config, UsualVocabularyTensors(config))) {
    if (!rounded.contains(tensor.name)) floats.push_back(std::move(tensor));
  }
  return floats;
}

/// llama.cpp's blocks: bytes for so many codes.
std::int64_t GgufBytes(const Codes& codes) {
  const std::int64_t values = codes.in * codes.out;
  if (codes.bits >= 8) return values / 32 * 34;
  if (codes.bits >= 4) return values / 32 * (codes.symmetric ? 18 : 20);
  return values / 256 * 66;
}

std::int64_t GgufDataBytes(const teq::v1::Recipe& recipe, const ModelConfig& config,
                           const std::vector<PlannedLayer>& plan) {
  std::int64_t bytes = 0;
  const auto add = [&bytes](std::int64_t size) {
    bytes += (size + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
  };
  const std::string positions =
      config.names.positions.empty() ? "" : ModuleName(config, config.names.positions) + ".weight";
  for (const ExpectedTensor& tensor : Floats(config, plan)) {
    const bool single = tensor.shape.size() < 2 || tensor.name == positions;
    add(Values(tensor.shape) * (single ? 4 : 2));
  }
  const auto& scaling = config.rotary.scaling;
  if (scaling && scaling->kind == RopeScaling::Kind::kLlama3) add(4 * config.rotary.dimensions / 2);
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized) add(GgufBytes(CodesOf(recipe, planned)));
  }
  return bytes;
}

}  // namespace

std::int64_t OutputBytes(teq::v1::Format format, const teq::v1::Recipe& recipe,
                         const ModelConfig& config, const std::vector<PlannedLayer>& plan) {
  if (format == teq::v1::FORMAT_GGUF) return GgufDataBytes(recipe, config, plan);
  Safetensors file;
  for (const ExpectedTensor& tensor : Floats(config, plan)) {
    file.Add(tensor.name, "F16", 2, tensor.shape);
  }
  const AddCodes add = LayoutOf(format);
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized) add(CodesOf(recipe, planned), file);
  }
  return file.bytes();
}

}  // namespace teq::model_info
