#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/pattern.h"
#include "worker/engine/text/piece.h"

namespace teq::text {

/// A token that is found in the text itself, not by the model.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for after normalization
  bool special = false;      // stands for something that is no text
};

/// One entry of `added_tokens`, or of tokenizer_config.json's `added_tokens_decoder`, without its
/// id.
[[nodiscard]] absl::StatusOr<AddedToken> ParseAddedToken(const JsonPart& part);

/// Finds added tokens: from left to right, the longest at each place. Thread-safe.
class AddedTokenFinder {
 public:
  /// A token is found as its `content`; tokens with empty content are left out.
  [[nodiscard]] static absl::StatusOr<AddedTokenFinder> Create(std::vector<AddedToken> tokens);

  /// Cuts the tokens out of every piece that is not yet a token.
  [[nodiscard]] absl::Status Split(std::vector<Piece>& pieces) const;

 private:
  AddedTokenFinder(std::vector<AddedToken> tokens, Pattern word, Pattern space);

  [[nodiscard]] const AddedToken* LongestAt(std::string_view text) const;
  [[nodiscard]] absl::StatusOr<bool> IsWordBeside(std::string_view before,
                                                  std::string_view after) const;
  [[nodiscard]] absl::Status SplitPiece(const Piece& piece, std::vector<Piece>& pieces) const;

  std::vector<AddedToken> tokens_;
  std::array<std::vector<std::size_t>, 256> by_first_byte_;  // longest first
  Pattern word_;
  Pattern space_;
};

}  // namespace teq::text
