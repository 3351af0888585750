// The protocol buffer is read by field numbers: sentencepiece_model.proto of the sentencepiece
// project has them, and Debian does not install it.
#include "client/model_info/gguf_sentencepiece.h"

#include <bit>
#include <fstream>
#include <iterator>

#include "fmt/format.h"
#include "google/protobuf/unknown_field_set.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// ModelProto.
constexpr int kPieces = 1;
constexpr int kTrainer = 2;
constexpr int kNormalizer = 3;
// ModelProto.SentencePiece.
constexpr int kText = 1;
constexpr int kScore = 2;
constexpr int kType = 3;
// TrainerSpec.
constexpr int kModelType = 3;
constexpr std::uint64_t kBpe = 2;
// NormalizerSpec.
constexpr int kCharsmap = 2;
constexpr int kSpacePrefix = 3;
constexpr int kRemoveExtraSpaces = 4;
constexpr int kEscapeSpaces = 5;

absl::Status Invalid(const std::filesystem::path& file) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("{}: is no SentencePiece model", file.string()));
}

/// The last field of a number, or nothing.
const UnknownField* Find(const UnknownFieldSet& set, int number, UnknownField::Type type) {
  const UnknownField* found = nullptr;
  for (int i = 0; i < set.field_count(); ++i) {
    if (set.field(i).number() == number && set.field(i).type() == type) found = &set.field(i);
  }
  return found;
}

std::uint64_t Number(const UnknownFieldSet& set, int number, std::uint64_t fallback) {
  const UnknownField* field = Find(set, number, UnknownField::TYPE_VARINT);
  return field == nullptr ? fallback : field->varint();
}

std::string Text(const UnknownFieldSet& set, int number) {
  const UnknownField* field = Find(set, number, UnknownField::TYPE_LENGTH_DELIMITED);
  return field == nullptr ? "" : field->length_delimited();
}

absl::StatusOr<SentencePieces::Piece> ParsePiece(const std::filesystem::path& file,
                                                 const std::string& bytes) {
  UnknownFieldSet fields;
  if (!fields.ParseFromString(bytes)) return Invalid(file);
  SentencePieces::Piece piece;
  piece.text = Text(fields, kText);
  piece.type = static_cast<int>(Number(fields, kType, 1));
  if (const auto* score = Find(fields, kScore, UnknownField::TYPE_FIXED32); score != nullptr) {
    piece.score = std::bit_cast<float>(score->fixed32());
  }
  return piece;
}

}  // namespace

absl::StatusOr<SentencePieces> ReadSentencePieces(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(stream), {});
  UnknownFieldSet model;
  UnknownFieldSet trainer;
  UnknownFieldSet normalizer;
  if (!stream.good() || !model.ParseFromString(bytes) ||
      !trainer.ParseFromString(Text(model, kTrainer)) ||
      !normalizer.ParseFromString(Text(model, kNormalizer))) {
    return Invalid(file);
  }
  SentencePieces result;
  for (int i = 0; i < model.field_count(); ++i) {
    const UnknownField& field = model.field(i);
    if (field.number() != kPieces || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    TEQ_ASSIGN_OR_RETURN(auto piece, ParsePiece(file, field.length_delimited()));
    result.pieces.push_back(std::move(piece));
  }
  if (result.pieces.empty()) return Invalid(file);
  result.bpe = Number(trainer, kModelType, 1) == kBpe;
  result.space_prefix = Number(normalizer, kSpacePrefix, 1) != 0;
  result.normalizes = !Text(normalizer, kCharsmap).empty() ||
                      Number(normalizer, kRemoveExtraSpaces, 1) != 0 ||
                      Number(normalizer, kEscapeSpaces, 1) == 0;
  return result;
}

}  // namespace teq::model_info
