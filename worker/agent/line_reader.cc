#include "worker/agent/line_reader.h"

namespace teq::agent {

void LineReader::Feed(std::string_view bytes) {
  for (const char byte : bytes) {
    if (byte == '\n') {
      Tell();
      continue;
    }
    line_ += byte;
    if (line_.size() == kLongestLine) Tell();
  }
}

void LineReader::Finish() { Tell(); }

void LineReader::Tell() {
  if (!line_.empty() && line_.back() == '\r') line_.pop_back();
  // An empty line says nothing where each has a time of its own.
  if (!line_.empty() && on_line_) on_line_(line_);
  line_.clear();
}

}  // namespace teq::agent
