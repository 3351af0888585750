// teq-tokenize DIRECTORY: the token ids of texts by a checkpoint's tokenizer, special tokens
// included. Each line of standard input is a text's bytes in hexadecimal; each line of standard
// output is its ids.

#include <charconv>
#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/engine/text/tokenizer.h"

namespace teq::text {
namespace {

std::optional<std::string> FromHexadecimal(std::string_view digits) {
  if (digits.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    unsigned byte = 0;
    const char* end = digits.data() + i + 2;
    const auto [stop, error] = std::from_chars(digits.data() + i, end, byte, 16);
    if (error != std::errc() || stop != end) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

void Print(const std::vector<std::int32_t>& ids, bool& first) {
  for (const std::int32_t id : ids) {
    std::cout << (first ? "" : " ") << id;
    first = false;
  }
}

int Run(const char* directory) {
  const auto tokenizer = OpenTokenizer(directory);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = FromHexadecimal(line);
    if (!text) {
      std::cerr << "not hexadecimal: " << line << "\n";
      return 2;
    }
    const auto ids = (*tokenizer)->Encode(*text);
    if (!ids.ok()) {
      std::cerr << ids.status() << "\n";
      return 1;
    }
    bool first = true;
    Print((*tokenizer)->prefix(), first);
    Print(*ids, first);
    Print((*tokenizer)->suffix(), first);
    std::cout << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace teq::text

int main(int argc, char** argv) {
  if (argc == 2) return teq::text::Run(argv[1]);
  std::cerr << "usage: teq-tokenize DIRECTORY\n";
  return 2;
}
