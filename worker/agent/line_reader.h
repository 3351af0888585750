#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace teq::agent {

/// Cuts what a program prints into lines. Not thread-safe.
class LineReader {
 public:
  /// A longer line is told in parts of this size.
  static constexpr std::size_t kLongestLine = 8192;

  explicit LineReader(std::function<void(const std::string&)> on_line)
      : on_line_(std::move(on_line)) {}

  void Feed(std::string_view bytes);

  /// Nothing more comes: tells a last line that has no end.
  void Finish();

 private:
  void Tell();

  std::function<void(const std::string&)> on_line_;
  std::string line_;
};

}  // namespace teq::agent
