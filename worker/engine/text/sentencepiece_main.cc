// teq-sentencepiece MODEL [--no-dummy-prefix]: runs libsentencepiece for one tokenizer.
//
// A program of its own because Debian's libsentencepiece carries an old protobuf whose symbols
// clash with the protobuf that the rest of teqd links, and because the library ends its process on
// some malformed models.

#include <sentencepiece_processor.h>

#include <cstdint>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/engine/text/sentencepiece_protocol.h"

namespace teq::text {
namespace {

using sentencepiece::SentencePieceProcessor;

constexpr int kSocket = 0;  // standard input, both ways
// A serialized ModelProto with this behind it has normalizer_spec.add_dummy_prefix false.
constexpr std::string_view kDummyPrefixOff("\x1a\x02\x18\x00", 4);

std::string Numbers(const std::vector<std::int32_t>& numbers) {
  std::string frame(1, kOk);
  frame.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(numbers[0]));
  return frame;
}

std::string Failure(std::string_view message) { return kFailed + std::string(message); }

// The id of an unknown piece is that of the unknown token.
std::int32_t Find(const SentencePieceProcessor& processor, std::string_view piece) {
  const int id = processor.PieceToId(piece);
  return id >= 0 && processor.IdToPiece(id) == piece ? id : -1;
}

std::string Answer(const SentencePieceProcessor& processor, std::string_view request) {
  if (request.empty()) return Failure("an empty request");
  const std::string_view text = request.substr(1);
  if (request.front() == kFind) return Numbers({Find(processor, text)});
  std::vector<int> ids;
  const auto status = processor.Encode(text, &ids);
  return status.ok() ? Numbers(ids) : Failure(status.ToString());
}

sentencepiece::util::Status Load(const char* model, bool dummy_prefix,
                                 SentencePieceProcessor& processor) {
  if (dummy_prefix) return processor.Load(model);
  std::ifstream stream(model, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(stream)), {});
  bytes += kDummyPrefixOff;
  return processor.LoadFromSerializedProto(bytes);
}

int Serve(const char* model, bool dummy_prefix) {
  SentencePieceProcessor processor;
  const auto status = Load(model, dummy_prefix, processor);
  if (!status.ok()) {
    (void)WriteFrame(kSocket, Failure(status.ToString()));
    return 1;
  }
  std::string answer = Numbers({processor.GetPieceSize(), processor.bos_id(), processor.eos_id()});
  while (WriteFrame(kSocket, answer)) {
    const std::optional<std::string> request = ReadFrame(kSocket);
    if (!request) return 0;
    answer = Answer(processor, *request);
  }
  return 1;
}

}  // namespace
}  // namespace teq::text

int main(int argc, char** argv) {
  const bool dummy_prefix = argc == 2;
  if (!dummy_prefix && (argc != 3 || argv[2] != teq::text::kNoDummyPrefix)) return 2;
  try {
    return teq::text::Serve(argv[1], dummy_prefix);
  } catch (const std::exception& error) {
    (void)teq::text::WriteFrame(teq::text::kSocket, teq::text::Failure(error.what()));
    return 1;
  }
}
