#include "worker/engine/text/word_model.h"

#include <utility>

#include "proto/spec/error.h"
#include "worker/engine/text/bpe.h"
#include "worker/engine/text/unigram.h"

namespace teq::text {

absl::StatusOr<std::unique_ptr<const WordModel>> ParseWordModel(const JsonPart& model) {
  // Files of older versions do not name the type.
  TEQ_ASSIGN_OR_RETURN(const std::string type,
                       model["type"].StringOr(model["merges"].present() ? "BPE" : "(none)"));
  if (type == "BPE") {
    TEQ_ASSIGN_OR_RETURN(auto bpe, Bpe::Parse(model));
    return std::make_unique<const Bpe>(std::move(bpe));
  }
  if (type == "Unigram") {
    TEQ_ASSIGN_OR_RETURN(auto unigram, Unigram::Parse(model));
    return std::make_unique<const Unigram>(std::move(unigram));
  }
  return model["type"].Unsupported(type, "BPE, Unigram");
}

}  // namespace teq::text
