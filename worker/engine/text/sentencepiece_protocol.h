#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace teq::text {

/// What teq-sentencepiece and its one client say to each other, over a stream socket: frames of a
/// 64-bit length and that many bytes, in the machine's own order. The program loads the model that
/// its argument names and sends a greeting; then it answers each request until the stream ends. A
/// second argument, kNoDummyPrefix, has it put no space before a text, whatever the model says.
///
///   greeting: kOk, int32 size, int32 bos, int32 eos (-1: none)
///   kEncode, text       -> kOk, int32 ids
///   kFind, piece        -> kOk, int32 id (-1: none)
///   any                 -> kFailed, message
inline constexpr std::string_view kNoDummyPrefix = "--no-dummy-prefix";
inline constexpr char kEncode = 'E';
inline constexpr char kFind = 'F';
inline constexpr char kOk = 'O';
inline constexpr char kFailed = 'X';

/// Whether the whole frame was written. A peer that is gone raises no signal.
[[nodiscard]] bool WriteFrame(int socket, std::string_view frame);

/// Nothing at the stream's end, after an error, and for a length that cannot be meant.
[[nodiscard]] std::optional<std::string> ReadFrame(int socket);

}  // namespace teq::text
